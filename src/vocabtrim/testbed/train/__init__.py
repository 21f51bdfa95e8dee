"""The scripts that made the built-in trained models. Only their results are carried; nothing else imports them."""
