"""The released scripts' decisions (AkariAsai/self-rag), to the token."""
