"""What may be built because a file names it."""

import pytest

from medvision.registry import Purpose, may_build


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("medvision.models.UNet", Purpose.PREDICT),
        ("medvision.models.BatchMixing", Purpose.EVALUATE),
        ("medvision.data.SegmentationData", Purpose.EVALUATE),
        ("segmentation_models_pytorch.losses.DiceLoss", Purpose.EVALUATE),
        ("torch.nn.BCEWithLogitsLoss", Purpose.EVALUATE),
        ("pytorch_lightning.Trainer", Purpose.EVALUATE),
        ("torch.optim.AdamW", Purpose.RESUME),
        ("pytorch_lightning.callbacks.EarlyStopping", Purpose.RESUME),
        ("medvision.callbacks.BestAndLast", Purpose.RESUME),
        ("medvision.tasks.schedules.constant", Purpose.RESUME),
        ("os.system", None),
        ("torch.nn.Linear", None),
        ("torch.optim.lr_scheduler.LambdaLR", None),
        ("medvision.models.unet.UNet", None),
        ("medvision.models.UNet.forward", None),
        ("medvision.models.UNet\n", None),
        ("xmedvision.models.UNet", None),
        ("my_package.Net", None),
    ],
)
def test_a_class_is_allowed_from_one_purpose_on(name: str, first: Purpose | None) -> None:
    allowed = [purpose for purpose in Purpose if may_build(name, purpose)]
    assert allowed == [purpose for purpose in Purpose if first is not None and purpose >= first]
