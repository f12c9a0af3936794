"""``python -m idl_lab.figures``."""

from idl_lab.figures import main

main()
