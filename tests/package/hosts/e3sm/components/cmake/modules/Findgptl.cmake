set(gptl_FOUND TRUE) # stand-in: nothing of it is used
