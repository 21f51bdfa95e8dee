// The slider: every number of every size stands in the page as text; this puts the chosen size's where they are shown
// and moves the line in the curves. Nothing is computed here but where that line stands.
"use strict";
(() => {
  const told = JSON.parse(document.getElementById("sizes").textContent);
  const slider = document.getElementById("kept-size");
  if (!told || !slider) return;
  const show = () => {
    const at = Number(slider.value);
    document.getElementById("kept-size-said").textContent = told.said[at];
    slider.setAttribute("aria-valuetext", told.said[at]);
    for (const output of document.querySelectorAll("output[data-run]")) {
      output.textContent = told.runs[output.dataset.run][output.dataset.field][at];
    }
    for (const line of document.querySelectorAll("figure[data-cursor]")) {
      const moved = Math.log2(told.sizes[at] / Number(line.dataset.from)) * Number(line.dataset.scale);
      document.getElementById(line.dataset.cursor).setAttribute("transform", `translate(${moved} 0)`);
    }
  };
  slider.addEventListener("input", show);
  show(); // a reloaded page may keep where the slider stood
})();
