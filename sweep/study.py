"""The sweep's study, under the name that others import."""

from sweep.search.study import Study

__all__ = ["Study"]
