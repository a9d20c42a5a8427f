"""How good the parts are: measures over questions with gold answers or judged passages."""
