"""The HTTP server: OpenAI's routes, our own, and the page; what fastapi and uvicorn are for."""
