"""Self-RAG that people can really use: retrieve on demand, answer by segment, cite and score."""
