"""Semantic probes of a tokenizer's codes: linear probe, k-NN, zero-shot, retrieval, similarity to a teacher."""
