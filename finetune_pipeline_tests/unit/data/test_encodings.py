"""Files that are not UTF-8: read as what they are, or refused with the key to set; never thinned in silence."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.raw_files import container_of
from finetune_pipeline_tests.unit.data.raw_rows import validate_bytes
from finetune_pipeline_tests.unit.data.rows import make_spec

SAID_LINES = """
French: Le café était fermé à Noël, où êtes-vous ? | Ça ne marche pas, l’accès a été supprimé | Hôtel très cher
German: Die Überweisung ist nicht da | Größe und Farbe stimmen nicht | Schöne Grüße – bitte „schnell“ prüfen
Spanish: ¿Dónde está mi pedido? | La contraseña no funciona | Quiero cancelar la suscripción del niño
Portuguese: Não consigo acessar a conta | Já são três semanas | Informações erradas, à loja
English: It’s broken – don’t ask | The £20 charge is wrong | I can’t log in…
Polish: Zażółć gęślą jaźń | Nie mogę się zalogować, hasło nie działa | Książka przyszła uszkodzona
Czech: Nemohu se přihlásit, heslo nefunguje | Kde je má objednávka? | Děkuji za rychlou pomoc
Turkish: Siparişim nerede? | Şifrem çalışmıyor, giriş yapamıyorum | İade istiyorum, lütfen yardım edin
Russian: Где мой заказ? | Не могу войти, пароль не работает | Верните деньги, пожалуйста
Greek: Πού είναι η παραγγελία μου; | Δεν μπορώ να συνδεθώ | Θέλω επιστροφή χρημάτων
Japanese: 注文はどこですか | ログインできません | 商品が壊れていました
"""
SAID = {language: said.split(" | ") for language, said in (x.split(": ") for x in SAID_LINES.strip().splitlines())}
PLAIN = str.maketrans("’–„“", "'-''")  # what cp850 does not have
WESTERN = ("French", "German", "Spanish", "Portuguese", "English")


def table(language: str, encoding: str, times: int = 4) -> bytes:
    rows = [f'"{said}",bug_report\r\n' for said in SAID[language] * times]
    text = "".join(["text,label\r\n", "It broke,P0_incident\r\n", *rows])
    return (text.translate(PLAIN) if encoding == "cp850" else text).encode(encoding)


@pytest.mark.parametrize("language", WESTERN)
def test_western_windows_text_is_read_and_said(tmp_path: Path, language: str) -> None:
    """Excel's `CSV` on a Western machine. Rows with accents went to quarantine, and a class lost a third."""
    result = validate_bytes(tmp_path, table(language, "cp1252"), make_spec(), "a.csv")
    assert result.texts[1:4] == SAID[language] and (result.kept, result.rules) == (13, {"encoding_detected": 1})
    (said,) = result.unread
    assert said.severity == "warning" and "read as cp1252" in said.message
    assert "in cp1252" in container_of(tmp_path / "a.csv", "a.csv", make_spec())[1]


OTHERS = {
    "mac-roman": WESTERN,
    "cp850": ("French", "German", "Spanish"),
    **{"cp1250": ("Polish", "Czech"), "iso8859-2": ("Polish", "Czech"), "latin-1": ("Spanish", "Portuguese")},
    **{"cp1254": ("Turkish",), "cp1253": ("Greek",), "iso8859-7": ("Greek",)},
    **dict.fromkeys(("cp1251", "koi8-r", "cp866", "iso8859-5", "mac_cyrillic"), ("Russian",)),
    **dict.fromkeys(("shift_jis", "euc_jp"), ("Japanese",)),
}


@pytest.mark.parametrize("encoding", OTHERS)
def test_common_words_confirm_an_encoding(tmp_path: Path, encoding: str) -> None:
    for language in OTHERS[encoding]:
        result = validate_bytes(tmp_path, table(language, encoding), make_spec(), "a.csv")
        said = [text.translate(PLAIN) if encoding == "cp850" else text for text in SAID[language]]
        assert result.texts[1:4] == said and (result.kept, result.rules) == (13, {"encoding_detected": 1}), language


NAMES = ["Paweł Żółkiewski", "Zoë Strauß, François", "Анна Щукина"]


@pytest.mark.parametrize(("name", "encoding"), zip(NAMES, ("cp1250", "cp1252", "cp1251"), strict=True))
def test_what_cannot_be_told_for_sure_is_refused_until_it_is_declared(tmp_path, name: str, encoding: str) -> None:
    """A wrong guess would train on garbled words, and no later check would see it. Names alone fit several encodings."""
    data = ("text,label\r\n" + f'"{name} is away",bug_report\r\n' * 9).encode(encoding)
    refused = validate_bytes(tmp_path, data, make_spec(), "a.csv")
    assert (refused.rows_in, refused.rules) == (0, {"unknown_encoding": 1})
    (said,) = refused.unread
    assert name.rsplit(maxsplit=1)[-1] in said.message and "data: {csv: {encoding: " in said.fix
    declared = validate_bytes(tmp_path, data, make_spec(csv={"encoding": encoding}), "a.csv")
    assert declared.texts[:1] == [f"{name} is away"] and (len(declared.texts), declared.findings) == (9, [])


def test_utf_16_without_a_mark_is_declared(tmp_path: Path) -> None:
    data = table("French", "utf-16-le")
    refused = validate_bytes(tmp_path, data, make_spec(), "a.csv")
    assert (refused.rows_in, refused.rules) == (0, {"unknown_encoding": 1}) and "utf-16-le" in refused.unread[0].fix
    declared = validate_bytes(tmp_path, data, make_spec(csv={"encoding": "utf-16-le"}), "a.csv")
    assert declared.texts[1:4] == SAID["French"] and declared.findings == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz"])
def test_wide_characters_need_no_declaration(tmp_path: Path, encoding: str, name: str) -> None:
    text = table("French", "utf-8").decode().replace("It broke,P0_incident\r\n", "")
    if "json" in name:
        rows = [f'{{"text": {json.dumps(x, ensure_ascii=False)}, "label": "bug_report"}}' for x in SAID["French"] * 4]
        text = f"[{','.join(rows)}]" if name == "a.json" else "\n".join(rows)
    data = text.encode(encoding)
    result = validate_bytes(tmp_path, gzip.compress(data) if name.endswith("gz") else data, make_spec(), name)
    assert result.texts == SAID["French"] * 4 and set(result.rules) <= {"byte_order_mark"}


def test_one_spec_reads_two_encodings_and_old_mac_line_ends(tmp_path: Path) -> None:
    spec: Any = make_spec(csv={"encoding": "cp1251"})
    for encoding in ("utf-8", "cp1251"):
        assert validate_bytes(tmp_path, table("Russian", encoding), spec, "a.csv").texts[1:4] == SAID["Russian"]
    data = table("French", "cp1252").replace(b"\r\n", b"\r")
    assert validate_bytes(tmp_path, data, make_spec(), "a.csv").texts[1:4] == SAID["French"]
    data = data.replace(b"It broke", b'"It broke\nagain"')
    assert validate_bytes(tmp_path, data, make_spec(), "a.csv").texts[:2] == ["It broke\nagain", SAID["French"][0]]


def test_two_encodings_in_one_file_are_named_and_stray_bytes_cost_their_own_row_only(tmp_path: Path) -> None:
    data = table("French", "utf-8") + table("French", "cp1252", times=3).split(b"\r\n", 2)[2]
    result = validate_bytes(tmp_path, data, make_spec(), "a.csv")
    assert result.kept == 13 and result.rules == {"invalid_utf8": 9, "mixed_encodings": 1}
    assert "9 of 23 lines" in result.unread[0].message and result.unread[0].severity == "error"
    data = table("French", "utf-8", times=40) + b"It \xe9\xff broke,bug_report\r\n"
    result = validate_bytes(tmp_path, data, make_spec(), "a.csv")
    assert (result.kept, result.rules, result.unread) == (121, {"invalid_utf8": 1}, [])


def test_half_a_character_at_the_end_is_a_cut(tmp_path: Path) -> None:
    data = table("French", "utf-16").rpartition("bug_report".encode("utf-16-le"))[0]
    result = validate_bytes(tmp_path, data[:-1], make_spec(), "a.csv")
    assert (result.kept, result.rules) == (12, {"unclosed_quote": 1, "invalid_encoding": 1})
    assert {f.about for f in result.unread} == {"rest"}
