"""Filters that change images before anything learns from them: one file a filter, a ``contracts.PreprocessingModule``.

``image`` is uint8 [H, W, 3], ``mask`` the lesion mask uint8 [H, W] (255 on the lesion), None where the data have none.
A filter is a function of its image alone, so that training, validation and test images can be processed at once.
"""
