"""`python -m synclora` is `synclora`."""

from synclora.cli import main

if __name__ == "__main__":
    main()
