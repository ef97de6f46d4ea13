"""Language codes, what else languages are called, and the names that prompts use."""

import re

import pytest

from speechllm.errors import UserError
from speechllm.languages import LANGUAGE_NAMES, VARIETY_NAMES, check_language, language_code, language_name

FLEURS = """
    af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq cmn_hans_cn cs_cz cy_gb da_dk de_de
    el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id
    ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ky_kg lb_lu lg_ug ln_cd lo_la lt_lt luo_ke
    lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl nso_za ny_mw oc_fr om_et or_in pa_in pl_pl
    ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua umb_ao
    ur_pk uz_uz vi_vn wo_sn xh_za yo_ng yue_hant_hk zu_za
""".split()

COMMON_VOICE = """
    ab af am an ar as ast az ba bas be bg bn br bxr ca cak ckb cnh cs cv cy da de dv dyu el en eo es et eu fa fi fr
    fy-NL ga-IE gl gn ha he hi hsb ht hu hy-AM ia id ig is it ja ka kab kk kmr ko ky lg lij lo lt ltg lv mdf mhr mk
    ml mn mr mrj mt myv nan-tw ne-NP nhi nl nn-NO nr nso oc or os pa-IN pl ps pt quy rm-sursilv rm-vallader ro ru rw
    sah sat sc sd sk skr sl sq sr ss st sv-SE sw ta te th ti tig tk tn tok tr ts tt tw ug uk ur uz uzs ve vi vmw vot
    xh yi yo yue zgh zh-CN zh-HK zh-TW zu zza
""".split()

MLC_SLM = {
    **{"English-American": "en-US", "English-Australian": "en-AU", "English-British": "en-GB"},
    **{"English-Filipino": "en-PH", "English-Indian": "en-IN", "French": "fr", "German": "de", "Italian": "it"},
    **{"Japanese": "ja", "Korean": "ko", "Portuguese": "pt", "Russian": "ru", "Spanish": "es", "Thai": "th"},
    **{"Vietnamese": "vi"},
}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        *[("en", "English"), ("de", "German"), ("sv-SE", "Swedish"), ("zh-CN", "Chinese"), ("th", "Thai")],
        *[("pt-BR", "Portuguese"), ("es-419", "Spanish"), ("yue", "Cantonese"), ("zh-HK", "Cantonese")],
        *[("zh-TW", "Traditional Chinese"), ("zh-Hant", "Traditional Chinese"), ("zh-Hans", "Chinese")],
        *[
            ("nb", "Norwegian Bokmål"),
            ("ht", "Haitian Creole"),
            ("rm-sursilv", "Romansh"),
            ("nan-tw", "Min Nan Chinese"),
        ],
    ],
)
def test_name(code, name):
    check_language(code)
    assert language_name(code) == name


def test_the_table_covers_the_corpora_and_models():
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    for code in COMMON_VOICE:
        check_language(code)
        assert language_code(code).lower() == code.lower()
    assert len(FLEURS) == 102
    assert len({language_code(code) for code in FLEURS}) == 102
    for code in (*map(language_code, FLEURS), *map(language_code, FAIRSEQ_LANGUAGE_CODES)):
        check_language(code)
    for name, code in TO_LANGUAGE_CODE.items():
        assert language_code(name) == {"jw": "jv"}.get(code, code)
        assert language_code(code) == {"jw": "jv"}.get(code, code)
    assert {category: language_code(category) for category in MLC_SLM} == MLC_SLM


def test_codes_and_names_are_well_formed_and_sorted():
    assert all(re.fullmatch("[a-z]{2,3}", code) for code in LANGUAGE_NAMES)
    assert all(re.fullmatch("[A-Z][A-Za-zå' -]+", name) for name in LANGUAGE_NAMES.values())
    assert len(set(LANGUAGE_NAMES.values())) == len(LANGUAGE_NAMES) == 289
    assert list(LANGUAGE_NAMES) == sorted(LANGUAGE_NAMES)
    assert all(language_code(name) == code for code, name in LANGUAGE_NAMES.items())
    assert all(language_code(code) == code for code in (*LANGUAGE_NAMES, *VARIETY_NAMES))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *[("de_de", "de"), ("cmn_hans_cn", "zh-CN"), ("yue_hant_hk", "yue"), ("es_419", "es-419"), ("pt_br", "pt-BR")],
        *[("fil_ph", "fil"), ("ast_es", "ast"), ("nb_no", "nb"), ("sv_se", "sv"), ("en_us", "en")],
        *[("deu", "de"), ("eng", "en"), ("cmn", "zh"), ("zho", "zh"), ("ger", "de"), ("ast", "ast"), ("twi", "tw")],
        *[("deu_Latn", "de"), ("zho_Hans", "zh-CN"), ("zho_Hant", "zh-TW"), ("arb_Arab", "ar"), ("khk_Cyrl", "mn")],
        *[("german", "de"), ("German", "de"), ("haitian creole", "ht"), ("Haitian_Creole", "ht"), ("mandarin", "zh")],
        *[("burmese", "my"), ("myanmar", "my"), ("Komi-Zyrian", "kpv"), ("iw", "he"), ("jw", "jv")],
        *[("de", "de"), ("DE", "de"), ("zh-cn", "zh-CN"), ("zh_CN", "zh-CN"), ("sv-SE", "sv-SE"), ("pt-PT", "pt-PT")],
        *[("pt_PT", "pt"), ("ZH-hant-tw", "zh-Hant-TW"), ("deu-AT", "de-AT"), ("rm-vallader", "rm-vallader")],
    ],
)
def test_other_schemes_are_mapped(name, code):
    assert language_code(name) == code
    check_language(code)


@pytest.mark.parametrize("function", [check_language, language_name, language_code])
@pytest.mark.parametrize("code", ["xx", "", "xx-DE", "_de", "xx_de", "nowhere"])
def test_unknown_codes_are_refused(function, code):
    with pytest.raises(UserError) as error:
        function(code)
    message = str(error.value)
    assert message.startswith(f"Unknown language '{code}'.")
    assert message.endswith(
        "Languages are BCP-47 codes such as 'de', 'zh-CN' or 'yue'; speechllm/languages.tsv lists all 289."
    )


@pytest.mark.parametrize("name", ["EN", "english", "eng", "en_us"])
def test_corpora_must_name_languages_by_their_codes(name):
    assert language_code(name) == "en"
    with pytest.raises(UserError, match=f"Unknown language '{name}'. Did you mean 'en'"):
        check_language(name)


@pytest.mark.parametrize("name", ["English-Klingon", "English-AN4", "de_de_latin1"])
def test_accents_that_are_not_known_are_refused(name):
    with pytest.raises(UserError, match=f"Unknown language '{name}'"):
        language_code(name)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        *[("deu", "'de'"), ("zh_cn", "'zh-CN'"), ("germn", "'de'"), ("Vietnamse", "'vi'"), ("jp", "'ja'")],
        *[("cz", "'cs' (Czech)"), ("ge", "'de' (German) or 'ka' (Georgian)"), ("English-Amercan", "'en'")],
    ],
)
def test_what_is_meant_is_named(given, hint):
    with pytest.raises(UserError, match=re.escape(f"row 3: unknown language '{given}'. Did you mean {hint}? Lang")):
        check_language(given, where="manifest.jsonl, row 3")


def test_place_is_named():
    with pytest.raises(UserError, match=r"^config\.yaml: unknown language 'nowhere'"):
        language_code("nowhere", "config.yaml")
