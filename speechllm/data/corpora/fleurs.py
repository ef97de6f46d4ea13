"""FLEURS: the sentences of FLoRes read aloud in 102 languages, by up to three speakers each.

``<root>/<language>`` holds ``train.tsv``, ``dev.tsv`` and ``test.tsv``, which have no header, and ``audio/<split>`` the
clips. A sentence has the same number in all languages: a translation is its text in another language. Copies of
Hugging Face's repository (languages in ``data``) and of lhotse (lists in ``metadata``) are read as well.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from speechllm.data.corpus import CorpusDataModule
from speechllm.data.manifest import LEARNED_SPLITS, Tally
from speechllm.data.reading.clips import with_durations
from speechllm.data.reading.text_files import read_lines
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError, did_you_mean
from speechllm.languages import check_language, language_code

SPLITS = ("train", "dev", "test")
TRANSCRIPTS = ("raw", "normalised")

CODES = tuple(
    """af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq cmn_hans_cn cs_cz cy_gb da_dk
    de_de el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am
    id_id ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ky_kg lb_lu lg_ug ln_cd lo_la lt_lt
    luo_ke lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl nso_za ny_mw oc_fr om_et or_in pa_in
    pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua
    umb_ao ur_pk uz_uz vi_vn wo_sn xh_za yo_ng yue_hant_hk zu_za""".split()
)
"""Languages as FLEURS names them, which its folders are called after."""

_BY_LANGUAGE = {
    language: code
    for code in CODES
    for name in [language_code(code)]
    for language in (name, name.split("-")[0], f"{name.split('-')[0]}-{code.split('_')[-1].upper()}")
}
"""FLEURS's code by those of BCP-47: ``de`` and ``de-DE``, ``zh-CN`` and ``zh``."""


class Row(NamedTuple):
    """A row of a list: number of the sentence, name of the clip, and the text as written and in lower case, bare."""

    sentence: str
    clip: str
    raw: str
    normalised: str


class Fleurs:
    """Reader of FLEURS on disk: one utterance per clip of the source languages.

    Args:
        root: Folder of the languages.
        sources: Languages that are spoken, as FLEURS names them (``de_de``) or by their BCP-47 codes (``de``), which
            are the codes that utterances carry then.
        targets: Languages of the translations, named alike.
        transcript: Text that is the transcript: ``raw``, with case and punctuation, or ``normalised``, in lower case
            and without. Translations are ``raw``.
    """

    name = "fleurs"
    version = "2022"

    def __init__(self, root: Path, sources: list[str], targets: list[str], transcript: str = "raw") -> None:
        if transcript not in TRANSCRIPTS:
            msg = (
                f"Unknown transcript '{transcript}' of FLEURS.{did_you_mean(transcript, TRANSCRIPTS)} "
                f"Known: {', '.join(TRANSCRIPTS)}."
            )
            raise UserError(msg)
        self.root = Path(root)
        self.sources = _languages(sources, "sources")
        self.targets = _languages(targets, "targets")
        self.transcript = transcript
        if not sources:
            msg = "FLEURS needs at least one language in `sources`, such as 'en_us'."
            raise UserError(msg)

    def options(self) -> dict[str, Any]:
        """Return the options that decide what the manifests hold."""
        return {"sources": self.sources, "targets": self.targets, "transcript": self.transcript}

    def splits(self) -> list[str]:
        """Return the splits that every language has.

        Raises:
            UserError: If a language is missing, or there is no split that all have.
        """
        codes = {**self.sources, **self.targets}
        for code in codes:
            if not any(self._list(code, split) for split in SPLITS):
                msg = (
                    f"No FLEURS in {code} in '{self.root}': looked for '{code}/<split>.tsv', there and in 'data' and "
                    "'metadata'. Give `root` the folder that holds one folder per language."
                )
                raise UserError(msg)
        found = [split for split in SPLITS if all(self._list(code, split) for code in codes)]
        if not found:
            msg = f"No split of FLEURS in '{self.root}' has a list in each of the languages {', '.join(codes)}."
            raise UserError(msg)
        return found

    def files(self) -> list[Path]:
        """Return the lists of all languages and splits."""
        codes = {**self.sources, **self.targets}
        return [path for split in self.splits() for code in codes if (path := self._list(code, split))]

    def published(self) -> dict[str, int]:
        """Return nothing: counts are not published by pair of languages."""
        return {}

    def read(self, split: str, tally: Tally) -> Iterator[Utterance]:
        """Yield the utterances of a split, one source language after the other, in the order of the lists.

        A sentence that a target language lacks has no translation, and no row of that pair, in a test set neither;
        it is counted.

        Raises:
            UserError: If a list or the clips are missing, or a row of the test set is wrong.
        """
        texts = {target: self._texts(code, split, tally) for code, target in self.targets.items()}
        for code, source in self.sources.items():
            others = {target: known for target, known in texts.items() if target != source}
            yield from with_durations(list(self._utterances(code, source, others, split, tally)), split, tally)

    def _utterances(
        self, code: str, source: str, texts: dict[str, dict[str, str]], split: str, tally: Tally
    ) -> Iterator[Utterance]:
        """Yield the utterances of a language, without their durations."""
        audio = self._audio(code, split)
        seen: Counter[str] = Counter()
        for row in self._rows(code, split, tally):
            name = f"{code}-{row.sentence}-{Path(row.clip).stem}"
            seen[name] += 1
            if seen[name] > 1 and split in LEARNED_SPLITS:
                tally.rejected["the same clip again"] += 1
                continue
            if seen[name] > 1:
                tally.changed["the same clip again, numbered"] += 1
            for target in texts:
                if row.sentence not in texts[target]:
                    tally.changed[f"the sentence is not in {target}, and has no translation"] += 1
            yield Utterance(
                id=name if seen[name] == 1 else f"{name}-{seen[name]}",
                audio=str(audio / row.clip),
                offset_s=0.0,
                duration_s=0.0,
                source_language=source,
                transcript=row.raw if self.transcript == "raw" else row.normalised,
                translations={target: known[row.sentence] for target, known in texts.items() if row.sentence in known},
                corpus=self.name,
            )

    def _texts(self, code: str, split: str, tally: Tally) -> dict[str, str]:
        """Return the text of each sentence; the first one, where speakers were given different ones."""
        texts: dict[str, str] = {}
        several: set[str] = set()
        for row in self._rows(code, split, tally):
            if texts.setdefault(row.sentence, row.raw) != row.raw:
                several.add(row.sentence)
        if several:
            tally.changed[f"sentence of several texts in {code}, of which the first one is taken"] += len(several)
        return texts

    def _rows(self, code: str, split: str, tally: Tally) -> Iterator[Row]:
        path = self._list(code, split)
        if path is None:
            msg = f"There is no '{split}.tsv' of FLEURS in {code} in '{self.root}'."
            raise UserError(msg)
        lines = read_lines(path, tally)
        if not lines:
            msg = f"'{path}' is empty. Fetch the list anew."
            raise UserError(msg)
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\r").split("\t")
            if not (wrong := _wrong(fields)):
                yield Row(*fields[:4])
            elif split in LEARNED_SPLITS:
                tally.rejected[f"row of {code}: {wrong}"] += 1
            else:
                msg = f"{path}, line {number}: {wrong}. A test set must be whole: fetch the list anew."
                raise UserError(msg)

    def _folders(self, code: str) -> list[Path]:
        return [self.root / code, self.root / "data" / code]

    def _list(self, code: str, split: str) -> Path | None:
        folders = [*self._folders(code), self.root / "metadata" / code]
        return next((path for folder in folders if (path := folder / f"{split}.tsv").is_file()), None)

    def _audio(self, code: str, split: str) -> Path:
        """Return the folder of a split's clips.

        Raises:
            UserError: If there is none; where the archive is there, the message says how to unpack it.
        """
        for folder in self._folders(code):
            for place in (folder / "audio" / split, folder / split):
                if place.is_dir():
                    return place.absolute()
        archives = [path for folder in self._folders(code) if (path := folder / "audio" / f"{split}.tar.gz").is_file()]
        if archives:
            msg = (
                f"The clips of FLEURS are packed: '{archives[0]}'. Unpack all archives: "
                f"find '{self.root}' -path '*/audio/*.tar.gz' -execdir tar -xzf {{}} ';'"
            )
        else:
            msg = f"No clips of FLEURS in {code}, {split}: looked for '{self._folders(code)[0] / 'audio' / split}'."
        raise UserError(msg)


def _wrong(fields: list[str]) -> str:
    """Return what is wrong with the fields of a row, nothing where it is right."""
    if len(fields) != 7:
        return f"{len(fields)} fields instead of 7"
    if not fields[0].isdecimal():
        return "the first field is not the number of a sentence"
    if not fields[1]:
        return "no clip is named"
    return "a NUL character" if "\0" in "".join(fields) else ""


def _languages(given: list[str], option: str) -> dict[str, str]:
    """Return the language code by FLEURS's own code, in the order given.

    Raises:
        UserError: If a language is unknown, is not in FLEURS or is named twice.
    """
    found: dict[str, str] = {}
    for name in given:
        language = language_code(name) if name in CODES else name
        check_language(language, f"FLEURS `{option}`")
        code = name if name in CODES else _BY_LANGUAGE.get(name)
        if code is None:
            other = _BY_LANGUAGE.get(language.split("-")[0])
            near = f" It has '{other}'." if other else ""
            msg = (
                f"FLEURS has no language '{name}'.{near} Name its 102 languages as it does, such as 'en_us', or by "
                "their BCP-47 codes, such as 'en'."
            )
            raise UserError(msg)
        if code in found:
            msg = f"FLEURS `{option}` names {code} twice: {', '.join(given)}."
            raise UserError(msg)
        found[code] = language
    return found


class FleursDataModule(CorpusDataModule):
    """FLEURS for training and scoring.

    Args:
        root: Folder that holds one folder per language.
        sources: Languages that are spoken: ``en_us``, or ``en``. The code given is the one in prompts and results; a
            code of FLEURS is put without its country, but for ``zh-CN``, ``es-419`` and ``pt-BR``.
        targets: Languages of the translations, named alike; every pair of two languages is a task of its own.
        tasks: Any of ``asr``, ``st`` and ``asr+st``.
        transcript: Text of the transcripts: ``raw``, with case and punctuation, or ``normalised``, in lower case and
            without; translations are ``raw``.
        **kwargs: Options of :class:`speechllm.data.corpus.CorpusDataModule`.
    """

    def __init__(
        self,
        root: str,
        sources: list[str] = ["en_us"],  # noqa: B006 (never changed, and shown by --help as it is)
        targets: list[str] = [],  # noqa: B006
        tasks: list[str] = ["asr"],  # noqa: B006
        transcript: str = "raw",
        **kwargs: Any,
    ) -> None:
        corpus = Fleurs(Path(root), sources, targets, transcript)
        if not targets and any(task != "asr" for task in tasks):
            msg = f"The tasks {', '.join(tasks)} need languages to translate into: give `targets`, such as [de_de]."
            raise UserError(msg)
        selection = hashlib.sha256(json.dumps(corpus.options(), sort_keys=True).encode()).hexdigest()[:8]
        manifests = Path(root) / "manifests" / f"fleurs_{selection}"
        super().__init__(corpus, manifests, tasks=tasks, test_splits=["test"], **kwargs)
