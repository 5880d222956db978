"""Groma: a grounded multimodal assistant.

    image -> encoder -> proposer -> selection -> region encoder -> prompt -> LLM -> grounded answer
    bytes -> annotation -> dialogue -> tokens, labels, slots -> batch -> stage -> checkpoint -> benchmark

The method is Groma, "Localized Visual Tokenization" (arXiv 2404.13013).
"""
