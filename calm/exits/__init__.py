"""May this token, or this example, stop here? Arrays in, arrays out."""
