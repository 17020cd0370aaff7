"""What the data engine says about a file of the run, which can quote it, is not passed on."""

import logging
import traceback

import pytest

from include.coding.errors import IncompleteError
from include.coding.files import path_from_uri
from tests.coding.conftest import DAY

SECRET = "what a person wrote"


@pytest.mark.parametrize("line", [f"{{{SECRET}", f'"{SECRET}"', f'{{"recordId": "1", "occp_text": "{SECRET}'])
def test_an_input_file_that_cannot_be_read_is_reported_without_its_text(pipeline, line, caplog):
    caplog.set_level(logging.DEBUG)
    pipeline.fill(("1", DAY, "chef", "cooks"))
    (part,) = pipeline.prepare().parts
    result = pipeline.code_part(part)
    path_from_uri(part.input_uri).write_text(line + "\n")
    with pytest.raises(IncompleteError, match=r"cannot be read .\w+Exception") as excinfo:
        pipeline.land([result])
    assert SECRET not in "".join(traceback.format_exception(excinfo.value)) + caplog.text
    assert SECRET not in str(pipeline.query("SELECT error FROM coding.coding_operations"))
