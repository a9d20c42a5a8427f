"""How good it is: the parts by judged passages, whole systems by the questions of a task."""
