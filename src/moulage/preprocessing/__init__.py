"""Filters that change images before anything learns from them: one file a filter.

    Config(plugins.Options)
    apply(config, image: uint8 [H, W, 3], mask: uint8 [H, W] | None) -> data.filters.Filtered

``mask`` is the lesion mask at the image's size (255 on the lesion), None where the data have none. A filter is a
function of its image alone, so that training, validation and test images can be processed at once.
"""
