"""What an image costs: tokens, nominal bits, and bits an ideal entropy coder would need for these statistics."""

from .metrics.codebook import CodebookStatistics


def rate(statistics: CodebookStatistics, *, pixels: int, codebook: dict) -> dict:
    """pixels: H * W of the evaluated image. codebook: `statistics.result()`.

    `entropy_coded_bits` codes every token with its codebook's pooled histogram; `..._by_position` with one histogram a
    position, a lower bound that many images are needed for (it can never exceed log2(images) a position).
    """
    statistics.to_cpu()
    images, books = statistics.images, codebook["codebooks"]
    tokens, bits = statistics.tokens / images, statistics.nominal_bits / images
    coded = sum(b["entropy_bits"] * b["tokens"] for b in books.values()) / images
    facts = {
        "tokens": tokens,
        "bits_per_token": bits / tokens,
        "bits_per_image": bits,
        "bits_per_pixel": bits / pixels,
        "entropy_coded_bits": coded,
        "entropy_coded_bits_per_pixel": coded / pixels,
    }
    if all("entropy_bits_by_position" in b for b in books.values()):
        facts["entropy_coded_bits_by_position"] = sum(sum(b["entropy_bits_by_position"]) for b in books.values())
    return facts
