"""Coverage-guided fuzzing of every decoder with atheris (docs/testing.md, Fuzzing): ``make fuzz-storage``."""
