# They come from the program, so they are always those of the one that is installed.
eval "$(registry-mirror completions bash 2>/dev/null)"
