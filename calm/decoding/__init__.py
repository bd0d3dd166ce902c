"""The loop that generates, and what is done with it: decoding files, evaluating tasks."""
