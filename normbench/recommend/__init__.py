"""The recommendation: one norm for a network and batch size, by what studies have decided."""

from normbench.recommend.answer import Answer, Question, answers

__all__ = ["Answer", "Question", "answers"]
