"""Names and definitions of the conventions by which a segmentation is scored.

Written A for predicted and B for labelled pixels of one class, p for the foreground probability of
a pixel and b for its label; predicted is p >= 0.5, or the class with the largest logit. What each
tool does was read in its published code: smp 0.6, MONAI 1.6, torchmetrics 1.9, nnU-Net 2,
mmsegmentation 1, and the MATLAB evaluation of PraNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One way to make a number of a set of predictions.

    Attributes:
        key: Stable name.
        name: A few words.
        tools: Who reports it.
        definition: One sentence.
        own: Whether it is medvision's own, from which differences are taken.
        optimistic: Whether something was chosen on the images that are scored: no test score.
        binary_only: Whether it is defined for two classes only.
        more_classes_only: Whether for two classes it is the same as another.
        tools_of_more_classes: Who reports it for three classes or more; empty for the same.
    """

    key: str
    name: str
    tools: str
    definition: str
    own: bool = False
    optimistic: bool = False
    binary_only: bool = False
    more_classes_only: bool = False
    tools_of_more_classes: str = ""

    def to_dict(self, *, num_classes: int) -> dict[str, Any]:
        """What a table of that many classes says of it."""
        more = num_classes > 2
        return {
            "key": self.key,
            "name": self.name,
            "tools": (self.tools_of_more_classes if more else "") or self.tools,
            "definition": self.definition,
            "own": self.own,
            "optimistic": self.optimistic,
            "binary_only": self.binary_only,
        }


SEGMENTATION = (
    Convention(
        key="per_image",
        name="per image",
        tools="medvision dice, iou; smp micro-imagewise",
        tools_of_more_classes="medvision dice, iou",
        definition="Mean over images (and foreground classes) at threshold 0.5; an image in which"
        " A and B are both empty scores 1.",
        own=True,
    ),
    Convention(
        key="per_image_defined",
        name="per image, both empty left out",
        tools="nnU-Net 2",
        definition="Mean over the images in which A or B has the class, for each foreground class,"
        " then over the classes; undefined where a class is on neither side of any image.",
    ),
    Convention(
        key="per_image_labelled",
        name="per image, empty masks left out",
        tools="MONAI DiceMetric, MeanIoU (one channel)",
        tools_of_more_classes="MONAI DiceMetric, MeanIoU (without background)",
        definition="Mean over the foreground classes that B has in an image, then over the images"
        " that have any; false alarms on empty masks count nowhere; 0 without a labelled image.",
    ),
    Convention(
        key="pooled",
        name="all pixels at once",
        tools="medvision dice_global; smp micro",
        tools_of_more_classes="medvision dice_global",
        definition="From the pixels of all images added up, so that large lesions weigh most; mean"
        " over foreground classes.",
    ),
    Convention(
        key="per_image_with_background",
        name="per image, with background",
        tools="torchmetrics 1.9 DiceScore, MeanIoU",
        definition="Dice: mean over the classes, background included, that A or B has in an image,"
        " then over images; IoU: mean over all such pairs of image and class.",
    ),
    Convention(
        key="per_image_labelled_with_background",
        name="per image, with background, empty masks left out",
        tools="MONAI DiceMetric, MeanIoU (two channels)",
        tools_of_more_classes="MONAI DiceMetric, MeanIoU",
        definition="Mean over the classes, background included, that B has in an image, then over"
        " images.",
    ),
    Convention(
        key="per_image_with_background_empty_1",
        name="per image, with background, both empty 1",
        tools="smp macro-imagewise",
        definition="Mean over all classes of each image, background included and a class on neither"
        " side scoring 1, then over images.",
        more_classes_only=True,
    ),
    Convention(
        key="pooled_with_background",
        name="all pixels, with background",
        tools="mmsegmentation mDice, mIoU",
        definition="From the pixels of all images added up, of each class, background included,"
        " then the mean over the classes that are on either side.",
    ),
    Convention(
        key="pooled_with_background_absent_1",
        name="all pixels, with background, absent class 1",
        tools="smp macro",
        definition="The same, a class on neither side scoring 1.",
        more_classes_only=True,
    ),
    Convention(
        key="micro_with_background",
        name="all pixels of all classes (pixel accuracy)",
        tools="torchmetrics before 1.9 (micro)",
        tools_of_more_classes="torchmetrics before 1.9 (micro); smp micro",
        definition="Overlaps and sizes of all classes, background included, added up before"
        " dividing; Dice is then the share of pixels with the right class.",
    ),
    Convention(
        key="micro_per_image_with_background",
        name="pixel accuracy per image",
        tools="smp micro-imagewise",
        definition="The same within each image, then the mean over images.",
        more_classes_only=True,
    ),
    Convention(
        key="soft_smooth_1",
        name="soft Dice, smooth 1",
        tools="Dice losses (MONAI DiceLoss, smooth 1)",
        definition="(2 sum(p b) + 1) / (sum(p) + sum(b) + 1) of each image without a threshold,"
        " then the mean over images.",
        binary_only=True,
    ),
    Convention(
        key="mean_over_thresholds",
        name="mean over 256 thresholds",
        tools="PraNet, Polyp-PVT: meanDic, meanIoU",
        definition="Each map is stretched to [0, 1] and cut at k/255, k = 0..255; 0 where A and B"
        " share nothing; mean over images and thresholds.",
        binary_only=True,
    ),
    Convention(
        key="max_over_thresholds",
        name="best of these 256 thresholds",
        tools="PraNet, Polyp-PVT: maxDic, maxIoU",
        definition="The same cuts, the largest of the 256 means over images: the threshold is"
        " chosen on the images that are scored.",
        optimistic=True,
        binary_only=True,
    ),
    Convention(
        key="best_threshold_on_this_set",
        name="best threshold on this set",
        tools="scripts that tune it on the test set",
        definition="The largest per-image mean over cuts of p at k/256, k = 0..255: the threshold"
        " is chosen on the images that are scored.",
        optimistic=True,
        binary_only=True,
    ),
)
"""Of segmentations, medvision's own first."""
