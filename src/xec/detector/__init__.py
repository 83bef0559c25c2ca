"""The detector: which sensors there are, where they sit, who neighbours whom, what they see."""
