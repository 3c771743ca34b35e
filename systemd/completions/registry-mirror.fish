# They come from the program, so they are always those of the one that is installed.
registry-mirror completions fish 2>/dev/null | source
