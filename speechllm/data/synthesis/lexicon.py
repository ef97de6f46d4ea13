"""The words of the synthetic corpus in five languages; :mod:`speechllm.data.synthesis.grammar` joins them to sentences.

English words were chosen so that no two of them sound alike: "two", "four" and "eight" are missing for that reason, as
is "read", whose past sounds like "red". Forms are written out rather than derived wherever a rule has exceptions.
"""

from dataclasses import dataclass
from typing import NamedTuple

LANGUAGES = ("en", "de", "fr", "es", "it")

Phrase = dict[str, str]
"""The same words in each of :data:`LANGUAGES`."""


class Forms(NamedTuple):
    """What one word is in each language, as lists of forms whose order each table's comment gives."""

    en: list[str]
    de: list[str]
    fr: list[str]
    es: list[str]
    it: list[str]


@dataclass(frozen=True)
class Subject:
    """Someone who does something.

    Attributes:
        person: Index into finite verb forms: 0 = I, 1 = he or she, 2 = we, 3 = they.
        nominative: As the subject of a sentence; empty in Spanish and Italian where the verb says it.
        direct: As a direct object (German accusative; Spanish with ``a``); empty for pronouns.
        indirect: As an indirect object (dative); empty for pronouns.
    """

    person: int
    nominative: Phrase
    direct: Phrase
    indirect: Phrase


@dataclass(frozen=True)
class Verb:
    """A verb with the things it can be done to.

    Attributes:
        forms: English: base, third person, past; German: infinitive, I, he, they, participle and, where it is
            separable, the particle; French: infinitive, I, he, we, they, participle; Spanish: infinitive, four
            present and four preterite forms; Italian as French.
        objects: English names of :data:`THINGS`, or ``persons``.
        german_dative: Whether the German object stands in the dative.
    """

    forms: Forms
    objects: tuple[str, ...]
    german_dative: bool = False


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def _phrases(table: str) -> list[Phrase]:
    return [dict(zip(LANGUAGES, row, strict=True)) for row in _rows(table)]


def _forms(cells: list[str]) -> Forms:
    return Forms(*([form.replace("_", " ") for form in cell.split()] for cell in cells))


# English | German nominative, accusative, dative | French | Spanish | Italian, each: subject, indirect object.
_PERSONS = """
the teacher  | der Lehrer, den Lehrer, dem Lehrer | le professeur, au professeur | el profesor, al profesor | il professore, al professore
the doctor   | der Arzt, den Arzt, dem Arzt | le médecin, au médecin | el médico, al médico | il medico, al medico
the farmer   | der Bauer, den Bauern, dem Bauern | le fermier, au fermier | el granjero, al granjero | il contadino, al contadino
the student  | der Student, den Studenten, dem Studenten | l'étudiant, à l'étudiant | el estudiante, al estudiante | lo studente, allo studente
the cook     | der Koch, den Koch, dem Koch | le cuisinier, au cuisinier | el cocinero, al cocinero | il cuoco, al cuoco
the neighbor | der Nachbar, den Nachbarn, dem Nachbarn | le voisin, au voisin | el vecino, al vecino | il vicino, al vicino
the woman    | die Frau, die Frau, der Frau | la femme, à la femme | la mujer, a la mujer | la donna, alla donna
the man      | der Mann, den Mann, dem Mann | l'homme, à l'homme | el hombre, al hombre | l'uomo, all'uomo
the girl     | das Mädchen, das Mädchen, dem Mädchen | la fille, à la fille | la chica, a la chica | la ragazza, alla ragazza
the boy      | der Junge, den Jungen, dem Jungen | le garçon, au garçon | el chico, al chico | il ragazzo, al ragazzo
my brother   | mein Bruder, meinen Bruder, meinem Bruder | mon frère, à mon frère | mi hermano, a mi hermano | mio fratello, a mio fratello
my sister    | meine Schwester, meine Schwester, meiner Schwester | ma sœur, à ma sœur | mi hermana, a mi hermana | mia sorella, a mia sorella
my mother    | meine Mutter, meine Mutter, meiner Mutter | ma mère, à ma mère | mi madre, a mi madre | mia madre, a mia madre
my father    | mein Vater, meinen Vater, meinem Vater | mon père, à mon père | mi padre, a mi padre | mio padre, a mio padre
my parents   | meine Eltern, meine Eltern, meinen Eltern | mes parents, à mes parents | mis padres, a mis padres | i miei genitori, ai miei genitori
the children | die Kinder, die Kinder, den Kindern | les enfants, aux enfants | los niños, a los niños | i bambini, ai bambini
"""  # noqa: E501
_PLURAL_PERSONS = ("my parents", "the children")

# English | German | French | Spanish | Italian, in the order of Subject.person, with two for the third person singular.
_PRONOUNS = """
I | ich | je | |
he | er | il | él | lui
she | sie | elle | ella | lei
we | wir | nous | |
they | sie | ils | ellos | loro
"""


def _person(row: list[str]) -> Subject:
    english, *others = row
    german, french, spanish, italian = ([form.strip() for form in cell.split(",")] for cell in others)
    subjects = [english, german[0], french[0], spanish[0], italian[0]]
    direct = [english, german[1], french[0], spanish[1], italian[0]]
    indirect = [english, german[2], french[1], spanish[1], italian[1]]
    number = 3 if english in _PLURAL_PERSONS else 1
    nominative, accusative, dative = (dict(zip(LANGUAGES, row, strict=True)) for row in (subjects, direct, indirect))
    return Subject(number, nominative, accusative, dative)


PERSONS = [_person(row) for row in _rows(_PERSONS)]
PRONOUNS = [Subject(person, words, {}, {}) for person, words in zip((0, 1, 1, 2, 3), _phrases(_PRONOUNS), strict=True)]
SUBJECTS = [*PERSONS, *PRONOUNS]

# English | German with gender | French, Spanish, Italian with gender; where a plural is used, it follows.
_THINGS = """
car | n Auto | f voiture | m coche | f macchina
bicycle | n Fahrrad | m vélo | f bicicleta | f bicicletta
boat | n Boot | m bateau | m barco | f barca
house | n Haus | f maison | f casa | f casa
door | f Tür | f porte | f puerta | f porta
window | n Fenster | f fenêtre | f ventana | f finestra
table | m Tisch | f table | f mesa | m tavolo
chair chairs | m Stuhl Stühle | f chaise chaises | f silla sillas | f sedia sedie
box | f Kiste | f boîte | f caja | f scatola
bag | f Tasche | m sac | m bolso | f borsa
key keys | m Schlüssel Schlüssel | f clé clés | f llave llaves | f chiave chiavi
book books | n Buch Bücher | m livre livres | m libro libros | m libro libri
letter letters | m Brief Briefe | f lettre lettres | f carta cartas | f lettera lettere
ticket tickets | f Fahrkarte Fahrkarten | m billet billets | m billete billetes | m biglietto biglietti
picture | n Bild | m tableau | m cuadro | m quadro
hat | m Hut | m chapeau | m sombrero | m cappello
coat | m Mantel | m manteau | m abrigo | m cappotto
umbrella | m Regenschirm | m parapluie | m paraguas | m ombrello
cup cups | f Tasse Tassen | f tasse tasses | f taza tazas | f tazza tazze
bottle | f Flasche | f bouteille | f botella | f bottiglia
flower flowers | f Blume Blumen | f fleur fleurs | f flor flores | m fiore fiori
dog dogs | m Hund Hunde | m chien chiens | m perro perros | m cane cani
horse horses | n Pferd Pferde | m cheval chevaux | m caballo caballos | m cavallo cavalli
apple apples | m Apfel Äpfel | f pomme pommes | f manzana manzanas | f mela mele
egg eggs | n Ei Eier | m œuf œufs | m huevo huevos | m uovo uova
cake | m Kuchen | m gâteau | m pastel | f torta
bread | n Brot | m pain | m pan | m pane
tea | m Tee | m thé | m té | m tè
coffee | m Kaffee | m café | m café | m caffè
milk | f Milch | m lait | f leche | m latte
"""
THINGS = {row[0].split()[0]: _forms(row) for row in _rows(_THINGS)}
"""By English name: English singular (and plural); in the others the gender, the singular (and the plural)."""

PLURALS = [name for name, forms in THINGS.items() if len(forms.en) == 2]
UNCOUNTABLE = ("bread", "tea", "coffee", "milk")
PLAIN = ("cake", "dog", "horse", "flower")
"""Things that take a size but no colour."""

BARE = ("apple", "egg")
"""Countable things that take no adjective."""

# English | German stem | French m, f | Spanish m, f | Italian m, f. In French, those of _BEFORE stand before the noun.
COLORS = [
    _forms(row)
    for row in _rows("""
red | rot | rouge rouge | rojo roja | rosso rossa
blue | blau | bleu bleue | azul azul | blu blu
green | grün | vert verte | verde verde | verde verde
white | weiß | blanc blanche | blanco blanca | bianco bianca
black | schwarz | noir noire | negro negra | nero nera
yellow | gelb | jaune jaune | amarillo amarilla | giallo gialla
""")
]
SIZES = [
    _forms(row)
    for row in _rows("""
small | klein | petit petite | pequeño pequeña | piccolo piccola
big | groß | grand grande | grande grande | grande grande
""")
]
"""In French, these stand before the noun."""

QUALITIES = [
    _forms(row)
    for row in _rows("""
expensive | teuer | cher chère | caro cara | caro cara
cheap | billig | bon_marché bon_marché | barato barata | economico economica
old | alt | vieux vieille | viejo vieja | vecchio vecchia
new | neu | neuf neuve | nuevo nueva | nuovo nuova
""")
]
"""Predicates; German without ending, the others m, f."""

# English | German | French | Spanish | Italian | objects. Forms as Verb says.
_VERBS = """
open opens opened | öffnen öffne öffnet öffnen geöffnet | ouvrir ouvre ouvre ouvrons ouvrent ouvert | abrir abro abre abrimos abren abrí abrió abrimos abrieron | aprire apro apre apriamo aprono aperto | door window box bag letter bottle umbrella
close closes closed | schließen schließe schließt schließen geschlossen | fermer ferme ferme fermons ferment fermé | cerrar cierro cierra cerramos cierran cerré cerró cerramos cerraron | chiudere chiudo chiude chiudiamo chiudono chiuso | door window box bag umbrella
repair repairs repaired | reparieren repariere repariert reparieren repariert | réparer répare répare réparons réparent réparé | reparar reparo repara reparamos reparan reparé reparó reparamos repararon | riparare riparo ripara ripariamo riparano riparato | car bicycle boat door window table chair umbrella
clean cleans cleaned | putzen putze putzt putzen geputzt | nettoyer nettoie nettoie nettoyons nettoient nettoyé | limpiar limpio limpia limpiamos limpian limpié limpió limpiamos limpiaron | pulire pulisco pulisce puliamo puliscono pulito | car bicycle house door window table chair
paint paints painted | streichen streiche streicht streichen gestrichen | peindre peins peint peignons peignent peint | pintar pinto pinta pintamos pintan pinté pintó pintamos pintaron | dipingere dipingo dipinge dipingiamo dipingono dipinto | boat house door window table chair
sell sells sold | verkaufen verkaufe verkauft verkaufen verkauft | vendre vends vend vendons vendent vendu | vender vendo vende vendemos venden vendí vendió vendimos vendieron | vendere vendo vende vendiamo vendono venduto | car bicycle boat house table picture book coat horse dog bread cake
buy buys bought | kaufen kaufe kauft kaufen gekauft | acheter achète achète achetons achètent acheté | comprar compro compra compramos compran compré compró compramos compraron | comprare compro compra compriamo comprano comprato | car bicycle boat house table chair picture book ticket hat coat umbrella horse dog cake
look_for looks_for looked_for | suchen suche sucht suchen gesucht | chercher cherche cherche cherchons cherchent cherché | buscar busco busca buscamos buscan busqué buscó buscamos buscaron | cercare cerco cerca cerchiamo cercano cercato | bag key book letter ticket hat coat umbrella cup
find finds found | finden finde findet finden gefunden | trouver trouve trouve trouvons trouvent trouvé | encontrar encuentro encuentra encontramos encuentran encontré encontró encontramos encontraron | trovare trovo trova troviamo trovano trovato | bag key book letter ticket hat coat umbrella picture box
forget forgets forgot | vergessen vergesse vergisst vergessen vergessen | oublier oublie oublie oublions oublient oublié | olvidar olvido olvida olvidamos olvidan olvidé olvidó olvidamos olvidaron | dimenticare dimentico dimentica dimentichiamo dimenticano dimenticato | bag key book letter ticket hat coat umbrella
lose loses lost | verlieren verliere verliert verlieren verloren | perdre perds perd perdons perdent perdu | perder pierdo pierde perdemos pierden perdí perdió perdimos perdieron | perdere perdo perde perdiamo perdono perso | bag key book letter ticket hat
eat eats ate | essen esse isst essen gegessen | manger mange mange mangeons mangent mangé | comer como come comemos comen comí comió comimos comieron | mangiare mangio mangia mangiamo mangiano mangiato | apple egg cake bread
drink drinks drank | trinken trinke trinkt trinken getrunken | boire bois boit buvons boivent bu | beber bebo bebe bebemos beben bebí bebió bebimos bebieron | bere bevo beve beviamo bevono bevuto | tea coffee milk
see sees saw | sehen sehe sieht sehen gesehen | voir vois voit voyons voient vu | ver veo ve vemos ven vi vio vimos vieron | vedere vedo vede vediamo vedono visto | persons
call calls called | anrufen rufe ruft rufen angerufen an | appeler appelle appelle appelons appellent appelé | llamar llamo llama llamamos llaman llamé llamó llamamos llamaron | chiamare chiamo chiama chiamiamo chiamano chiamato | persons
invite invites invited | einladen lade lädt laden eingeladen ein | inviter invite invite invitons invitent invité | invitar invito invita invitamos invitan invité invitó invitamos invitaron | invitare invito invita invitiamo invitano invitato | persons
help helps helped | helfen helfe hilft helfen geholfen | aider aide aide aidons aident aidé | ayudar ayudo ayuda ayudamos ayudan ayudé ayudó ayudamos ayudaron | aiutare aiuto aiuta aiutiamo aiutano aiutato | persons
"""  # noqa: E501

# As _VERBS; what is given, to someone.
_GIVING = """
give gives gave | geben gebe gibt geben gegeben | donner donne donne donnons donnent donné | dar doy da damos dan di dio dimos dieron | dare do dà diamo danno dato | key book ticket bag picture apple cup flower
show shows showed | zeigen zeige zeigt zeigen gezeigt | montrer montre montre montrons montrent montré | mostrar muestro muestra mostramos muestran mostré mostró mostramos mostraron | mostrare mostro mostra mostriamo mostrano mostrato | key book ticket letter picture house car boat
send sends sent | schicken schicke schickt schicken geschickt | envoyer envoie envoie envoyons envoient envoyé | enviar envío envía enviamos envían envié envió enviamos enviaron | mandare mando manda mandiamo mandano mandato | key book ticket letter picture
bring brings brought | bringen bringe bringt bringen gebracht | apporter apporte apporte apportons apportent apporté | traer traigo trae traemos traen traje trajo trajimos trajeron | portare porto porta portiamo portano portato | book coat hat umbrella chair cup bottle cake
"""  # noqa: E501


def _verb(row: list[str]) -> Verb:
    forms = _forms(row[:5])
    return Verb(forms, tuple(row[5].split()), german_dative=forms.en[0] == "help")


VERBS = [_verb(row) for row in _rows(_VERBS)]
GIVING = [_verb(row) for row in _rows(_GIVING)]
ARRIVE = _verb(
    _rows(
        "arrive arrives arrived | ankommen komme kommt kommen angekommen an"
        "| arriver arrive arrive arrivons arrivent arrivé"
        "| llegar llego llega llegamos llegan llegué llegó llegamos llegaron"
        "| arrivare arrivo arriva arriviamo arrivano arrivato |"
    )[0]
)

# Modal verbs and auxiliaries in the order of Subject.person. English: both forms; German: I, he, they.
CAN, MUST, WANT, BE, HAVE = (
    _forms(row)
    for row in _rows("""
can can | kann kann können | peux peut pouvons peuvent | puedo puede podemos pueden | posso può possiamo possono
must must | muss muss müssen | dois doit devons doivent | debo debe debemos deben | devo deve dobbiamo devono
want_to wants_to | will will wollen | veux veut voulons veulent | quiero quiere queremos quieren | voglio vuole vogliamo vogliono
are is | bin ist sind | suis est sommes sont | estoy está estamos están | sono è siamo sono
have has | habe hat haben | ai a avons ont | tengo tiene tenemos tienen | ho ha abbiamo hanno
""")  # noqa: E501
)

PLACES = _phrases("""
in the kitchen | in der Küche | dans la cuisine | en la cocina | in cucina
in the garden | im Garten | dans le jardin | en el jardín | in giardino
at the station | am Bahnhof | à la gare | en la estación | alla stazione
in the park | im Park | dans le parc | en el parque | nel parco
in the office | im Büro | au bureau | en la oficina | in ufficio
at the market | auf dem Markt | au marché | en el mercado | al mercato
in the hotel | im Hotel | à l'hôtel | en el hotel | in albergo
at home | zu Hause | à la maison | en casa | a casa
""")

SPOTS = _phrases("""
on the table | auf dem Tisch | sur la table | sobre la mesa | sul tavolo
under the chair | unter dem Stuhl | sous la chaise | debajo de la silla | sotto la sedia
in the box | in der Kiste | dans la boîte | en la caja | nella scatola
in the car | im Auto | dans la voiture | en el coche | in macchina
next to the door | neben der Tür | à côté de la porte | al lado de la puerta | accanto alla porta
in front of the window | vor dem Fenster | devant la fenêtre | delante de la ventana | davanti alla finestra
in the kitchen | in der Küche | dans la cuisine | en la cocina | in cucina
in the garden | im Garten | dans le jardin | en el jardín | in giardino
""")

DAYS = _phrases("""
on Monday | am Montag | lundi | el lunes | lunedì
on Friday | am Freitag | vendredi | el viernes | venerdì
on Sunday | am Sonntag | dimanche | el domingo | domenica
""")
PRESENT_TIMES = [
    *_phrases("""
today | heute | aujourd'hui | hoy | oggi
tomorrow | morgen | demain | mañana | domani
this evening | heute Abend | ce soir | esta noche | stasera
"""),
    *DAYS,
]
PAST_TIMES = [
    *_phrases("""
yesterday | gestern | hier | ayer | ieri
this morning | heute Morgen | ce matin | esta mañana | stamattina
"""),
    *DAYS,
]

NUMBERS = _phrases("""
three | drei | trois | tres | tre
five | fünf | cinq | cinco | cinque
six | sechs | six | seis | sei
seven | sieben | sept | siete | sette
nine | neun | neuf | nueve | nove
ten | zehn | dix | diez | dieci
eleven | elf | onze | once | undici
""")

# Numbers of NUMBERS that are hours, with the German hour that "half past" counts towards.
HALF_PAST_GERMAN = {
    "three": "vier",
    "five": "sechs",
    "six": "sieben",
    "seven": "acht",
    "nine": "zehn",
    "ten": "elf",
    "eleven": "zwölf",
}
SPANISH_EVENING = {
    "six": "de la tarde",
    "seven": "de la tarde",
    "nine": "de la noche",
    "ten": "de la noche",
    "eleven": "de la noche",
}

CITIES = _phrases("""
Berlin | Berlin | Berlin | Berlín | Berlino
Paris | Paris | Paris | París | Parigi
London | London | Londres | Londres | Londra
Madrid | Madrid | Madrid | Madrid | Madrid
Rome | Rom | Rome | Roma | Roma
""")

VEHICLES = [
    Subject(1, words, {}, {})
    for words in _phrases("""
the train | der Zug | le train | el tren | il treno
the bus | der Bus | le bus | el autobús | l'autobus
""")
]
