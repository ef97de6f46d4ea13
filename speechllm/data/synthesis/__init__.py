"""The synthetic corpus: sentences of a grammar with exact translations, spoken by espeak-ng."""
