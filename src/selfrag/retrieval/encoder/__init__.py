"""Text encoders for passages and questions."""
