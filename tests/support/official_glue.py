"""GLUE's files in their official layout, a few rows each, written by hand."""

from __future__ import annotations

from pathlib import Path

MNLI_TEXTS = "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t"
MNLI_TEXTS += "sentence2_parse\tsentence1\tsentence2"
STSB_TEXTS = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2"
PAIRS_TEST = "index\tsentence1\tsentence2\n0\tA.\tB.\n1\tC.\tD.\n"

# As the official files are: quotes that do not close, a byte-order mark, a missing header, malformed rows
OFFICIAL = {
    "CoLA/train.tsv": 'gj04\t1\t\tHe said "no.\ngj04\t0\t*\tShe them.\n',
    "CoLA/dev.tsv": "gj04\t1\t\tThey left.\n",
    "CoLA/test.tsv": "index\tsentence\n0\tBill floated.\n1\tJo\u2028n sank.\n",
    "SST-2/train.tsv": "sentence\tlabel\nhide new secretions \t0\nall fun \t1\n",
    "SST-2/dev.tsv": "sentence\tlabel\ncharming . \t1\n",
    "SST-2/test.tsv": "index\tsentence\n0\tuneasy mishmash\n",
    "MRPC/train.tsv": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t10\t11\tHe won .\tHe has won .\n",
    "MRPC/dev.tsv": '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t12\t13\t" It fell .\tIt rose .\n',
    "MRPC/test.tsv": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n0\t14\t15\tE .\tF .\n",
    "STS-B/train.tsv": f"{STSB_TEXTS}\tscore\n0\tg\tf\t2012\t1\tn\tn\tA plane.\tAn air plane.\t4.750\n",
    "STS-B/dev.tsv": f"{STSB_TEXTS}\tscore\n0\tg\tf\t2012\t0\tn\tn\tA hat.\tA cat.\t0.600\n",
    "STS-B/test.tsv": f"{STSB_TEXTS}\n0\tg\tf\t2012\t24\tn\tn\tHair.\tHairs.\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tWhy?\tHow?\t0\nbroken\trow\n"
    "7\t3\t4\tWho?\tWho is?\t1\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\tWhat?\tWhat!\t1\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n0\tWhen?\tWhere?\n",
    "MNLI/train.tsv": f"{MNLI_TEXTS}\tlabel1\tgold_label\n"
    "0\tp\tp\tg\t()\t()\t()\t()\tA man.\tA person.\tneutral\tentailment\n",
    "MNLI/dev_matched.tsv": f"{MNLI_TEXTS}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    "0\tp\tp\tg\t()\t()\t()\t()\tA dog.\tA cat.\tneutral\tneutral\tneutral\tneutral\tneutral\tcontradiction\n",
    "MNLI/dev_mismatched.tsv": f"{MNLI_TEXTS}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n"
    "0\tp\tp\tg\t()\t()\t()\t()\tA bus.\tA car.\te\te\te\te\te\tneutral\n",
    "MNLI/test_matched.tsv": f"{MNLI_TEXTS}\n0\tp\tp\tg\t()\t()\t()\t()\tM.\tN.\n",
    "MNLI/test_mismatched.tsv": f"{MNLI_TEXTS}\n0\tp\tp\tg\t()\t()\t()\t()\tO.\tP.\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n1\tWho?\tShe.\tentailment\n",
    "QNLI/dev.tsv": "index\tquestion\tsentence\tlabel\n0\tWhat?\tIt.\tentailment\n",
    "QNLI/test.tsv": "index\tquestion\tsentence\n0\tWhere?\tHere.\n",
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\r\n0\tA.\tB.\tentailment\r\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tC.\tD.\tnot_entailment",
    "RTE/test.tsv": PAIRS_TEST,
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tC.\tD.\t0\n",
    "WNLI/test.tsv": PAIRS_TEST,
    "diagnostic/diagnostic.tsv": "index\tsentence1\tsentence2\n0\tA.\tNot A.\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write files by their relative names."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder
