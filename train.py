"""Train, validate and test a model: ``python train.py experiment=polyp_unet``."""

import sys

from medvision.run import main

if __name__ == "__main__":
    sys.exit(main())
