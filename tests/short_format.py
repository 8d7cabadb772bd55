"""A judge format whose prompts fit the 128-token window of the tiny models."""

from workbench.judges import JudgeFormat, Segment

SHORT_FORMAT = JudgeFormat(
    name="short",
    segments=(Segment(text="Q: {question} A: {answer_a} B: {answer_b} Verdict:"),),
    groups={"A": (" A",), "B": (" B",)},
    pattern=r"\b([AB])\b",
    spoken={"A": "A", "B": "B"},
)
