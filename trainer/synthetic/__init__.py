"""Procedural faces: pictures with 98 WFLW landmarks and WFLW's six attributes."""

from trainer.synthetic.faces import draw_face

__all__ = ["draw_face"]
