from extract_load import read_yaml
from pathlib import Path
def read_defaults(environ): return read_yaml(Path(__file__).with_name("defaults.yml"))
