"""Reports as text."""

import csv
import io
import json
import re

import pytest

from client.commands.bench import FORMATS
from edge_kernels.bench.tables import rendered
from schemas.bench import EncoderReport, KernelReport


def test_json_is_the_report(kernel_report, encoder_report):
    for report, schema in ((kernel_report, KernelReport), (encoder_report, EncoderReport)):
        text = rendered(report, "json")
        assert schema.model_validate_json(text, strict=True) == report
        assert set(json.loads(text)) >= {"machine", "versions", "rows"}


def test_csv_has_a_column_a_number_and_a_line_a_row(kernel_report):
    lines = list(csv.DictReader(io.StringIO(rendered(kernel_report, "csv"))))
    assert len(lines) == 3
    assert lines[0]["bits"] == "2"
    assert lines[1]["bits"] == "ternary"
    assert (lines[0]["spread.q1"], lines[0]["spread.q3"]) == ("11.0", "13.0")
    assert lines[0]["rivals.MatMul fp32"] == "90.0"
    assert lines[0]["rivals_spread.MatMulNBits 2.q3"] == "25.0"
    assert lines[2]["rivals.MatMul fp32"] == lines[2]["best_rival"] == ""


def test_a_table_lines_up(kernel_report):
    head, *rows = rendered(kernel_report, "table").splitlines()[:4]
    assert {len(row) for row in rows} == {len(head)}
    assert rows[0].split()[:6] == ["256x1024", "1", "1", "2", "64", "exact"]
    assert "2.00" in rows[0]
    assert rows[1].split()[3:6] == ["ternary", "row", "7-bit"]
    assert "none" in rows[2]


def test_rivals_have_a_table_of_their_own_and_missing_ones_a_line(kernel_report):
    text = rendered(kernel_report, "table")
    _, theirs = text.split("The same calls by ONNX Runtime")
    assert "MatMulNBits 2" in theirs
    assert "left out: MatMulNBits 8: not there" in theirs
    assert "A CPU, 2 cores, avx2" in theirs


def test_an_encoder_s_table_fits_a_terminal_and_says_what_its_error_is_against(encoder_report):
    text = rendered(encoder_report, "table")
    ours, plain, _, theirs, error, _ = text.split("\n\n")
    assert [re.split(r"  +", line.strip()) for line in ours.splitlines()] == [
        ["bits", "threads", "us", "quartiles", "plain us", "error"],
        ["4", "1", "5.00", "11.0–13.0", "8.00", "1.0e-01"],
    ]
    assert plain.startswith("plain us: ours by ONNX Runtime's own run")
    assert [line.split() for line in theirs.splitlines()] == [
        ["ONNX", "Runtime", "threads", "us", "4"],
        ["fp32", "1", "35.0", "7.00"],
        ["QDQ", "u8", "1", "20.0", "4.00"],
    ]
    assert error.startswith("error: relative RMS, against the float network: rounding of weights")
    assert "error: relative RMS, against the float product" not in text


def test_a_kernel_s_error_is_against_its_own_weights(kernel_report):
    text = rendered(kernel_report, "table")
    assert "error: relative RMS, against the float product with the same, dequantized" in text


def test_markdown_has_as_many_cells_everywhere(kernel_report, encoder_report):
    for report in (kernel_report, encoder_report):
        text = rendered(report, "markdown")
        for block in text.split("\n\n"):
            cells = {line.count("|") for line in block.splitlines() if line.startswith("|")}
            assert len(cells) <= 1
        assert "| --- |" in text


@pytest.mark.parametrize("style", FORMATS)
def test_every_format_ends_in_one_newline(kernel_report, encoder_report, style):
    for report in (kernel_report, encoder_report):
        text = rendered(report, style)
        assert text.endswith("\n")
        assert not text.endswith("\n\n")


def test_every_format_that_can_be_asked_for_is_one_of_its_own(kernel_report, encoder_report):
    for report in (kernel_report, encoder_report):
        assert len({rendered(report, style) for style in FORMATS}) == len(FORMATS)
