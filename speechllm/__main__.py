"""Entry point of ``python -m speechllm``."""

from speechllm.cli import main

if __name__ == "__main__":
    main()
