"""``python -m medvision`` is the ``medvision`` command."""

from medvision.cli import main

if __name__ == "__main__":
    main()
