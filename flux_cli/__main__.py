"""`python -m flux_cli` is `flux-cli`."""

from flux_cli.main import run

if __name__ == "__main__":
    run()
