"""Sentences that are hard to read aloud, and the readings that a person would accept.

Written || spoken, where {a|b} are alternatives; compared without case, hyphens and punctuation.
"""

import itertools
import re

from salad_ds.synth.normalize import without_and

TEXT = r"""
The meeting is on 2024-03-05. || the meeting is on {march fifth|the fifth of march} twenty twenty four
She was born on March 5, 1999. || she was born on march {fifth|five} nineteen ninety nine
She was born March 5th, 1999, in Ohio. || she was born march fifth nineteen ninety nine in ohio
He arrived on 5 March 2021. || he arrived on {fifth march|the fifth of march|march fifth} twenty twenty one
Invoice dated 03/05/2024. || invoice dated {march fifth|the fifth of march} twenty twenty four
Due 12/31/1999 at noon. || due {december thirty first|the thirty first of december} nineteen ninety nine at noon
The Dec. 25 sale. || the december {twenty fifth|twenty five} sale
On Jan. 1st we rest. || on january first we rest
In 1805 he sailed. || in eighteen {oh five|o five} he sailed
In 1900 and in 2000. || in nineteen hundred and in two thousand
From 1914 to 1918 there was war. || from nineteen fourteen to nineteen eighteen there was war
The years 1939-1945 were hard. || the years nineteen thirty nine to nineteen forty five were hard
World War I (1914–1918) began. || world war one nineteen fourteen to nineteen eighteen began
In the 1990s music changed. || in the nineteen nineties music changed
Music of the '80s is back. || music of the eighties is back
The mid-1800s were quiet. || the mid eighteen hundreds were quiet
In 44 BC Caesar died. || in forty four b c caesar died
Rome fell in 476 A.D. to others. || rome fell in four {seventy six|hundred seventy six} a d to others
It cost $12.50. || it cost twelve dollars {and |}fifty cents
It cost $1. || it cost one dollar
It cost $1,250,000 in all. || it cost one million two hundred fifty thousand dollars in all
It cost $3 million. || it cost three million dollars
A $1.5 billion deal. || a one point five billion {dollars|dollar} deal
He paid £5 for it. || he paid five pounds for it
He paid £2.99 for it. || he paid two pounds {and |}ninety nine {pence|} for it
The price is €20. || the price is twenty euros
The fee was ¥500. || the fee was five hundred yen
A $5 bill. || a five {dollar|dollars} bill
It went from $5-$10. || it went from five dollars to ten dollars
A loan of $20k. || a loan of twenty thousand dollars
It costs 50¢. || it costs fifty cents
US$100 was paid. || {u s |us |}{one hundred|a hundred} {u s |us |}dollars was paid
He ran 5 km. || he ran five kilometers
He ran 5km today. || he ran five kilometers today
It weighs 3.5 kg. || it weighs three point five kilograms
The box is 10 cm x 20 cm. || the box is ten centimeters {by|times|x} twenty centimeters
At 100 km/h it shakes. || at one hundred kilometers per hour it shakes
It falls at 9.8 m/s². || it falls at nine point eight meters per second squared
An area of 30 m² was cut. || an area of thirty {square meters|meters squared} was cut
Store at 20°C. || store at twenty degrees celsius
It was -5°C outside. || it was minus five degrees celsius outside
It was 98.6 °F. || it was ninety eight point six degrees fahrenheit
A 60 W bulb. || a sixty {watts|watt} bulb
An 8 GB card. || an eight {gigabytes|gigabyte} card
It runs at 2.4 GHz. || it runs at two point four gigahertz
It took 250 ms. || it took two hundred fifty milliseconds
Add 2 tbsp of oil. || add two tablespoons of oil
He is 6 ft tall. || he is six feet tall
He is 6'2" tall. || he is six {feet|foot} two {inches |}tall
A 12 oz can. || a twelve {ounces|ounce} can
Speed limit 65 mph. || speed limit sixty five miles per hour
The dose is 5 mg/kg. || the dose is five milligrams per kilogram
A 5-10 km walk. || a five to ten {kilometers|kilometer} walk
A 100-metre race. || a {one hundred|hundred} metre race
It grew 20%. || it grew twenty percent
It grew by 3.75 % last year. || it grew by three point seven five percent last year
Between 10-15% of people. || between ten to fifteen percent of people
About 1/2 of them left. || about {one half|a half} of them left
Take 3/4 of a cup. || take three {quarters|fourths} of a cup
Take 2 1/2 cups. || take two and {a|one} half cups
Take ½ cup. || take {one half|a half|half} cup
Two-thirds, i.e. 2/3, agreed. || two thirds {that is|i e} two thirds agreed
The 1st and 2nd prizes. || the first and second prizes
The 21st century. || the twenty first century
On the 103rd day. || on the one hundred third day
King Henry VIII ruled. || king henry the eighth ruled
Pope John Paul II spoke. || pope john paul the second spoke
World War II ended. || world war two ended
Chapter IV begins here. || chapter four begins here
Louis XIV built it. || louis {the fourteenth} built it
See Part III for more. || see part three for more
I am here and I see it. || i am here and i see it
He got a Vitamin C pill. || he got a vitamin c pill
Mr. Smith met Mrs. Jones. || mister smith met {missus|misses|mistress} jones
Dr. Brown lives on Main St. in town. || doctor brown lives on main street in town
Drive to 12 Oak Ave. and stop. || drive to twelve oak avenue and stop
St. Peter was there. || saint peter was there
Prof. Green left. || professor green left
Smith vs. Jones went on. || smith versus jones went on
Apples, pears, etc. are fruit. || apples pears {et cetera|etcetera} are fruit
Fruit, e.g. apples, is good. || fruit {for example|e g} apples is good
See Fig. 3 and Eq. 4. || see figure three and equation four
It is No. 1 here. || it is number one here
No. I will not. || no i will not
Acme Inc. and Beta Ltd. merged. || acme {incorporated|inc} and beta {limited|ltd} merged
Martin Luther King Jr. spoke. || martin luther king junior spoke
Lt. Col. Harris saluted. || lieutenant colonel harris saluted
J. R. R. Tolkien wrote it. || j r r tolkien wrote it
J.K. Rowling wrote it. || j k rowling wrote it
The U.S. army came. || the u s army came
The U.S.A. and the U.K. agreed. || the u s a and the u k agreed
The FBI and NASA agreed. || the {fbi|f b i} and nasa agreed
She has a Ph.D. in physics. || she has a p h d in physics
Meet at 7:30 p.m. sharp. || meet at seven thirty p m sharp
Meet at 7:30. || meet at seven thirty
Meet at 10 a.m. tomorrow. || meet at ten a m tomorrow
Meet at 5pm. || meet at five p m
It is 12:00 now. || it is twelve {o'clock|oclock|hundred|} now
The bus leaves at 8:05 AM. || the bus leaves at eight {oh|o} five a m
The train is at 23:45. || the train is at twenty three forty five
He ran it in 1:02:33. || he ran it in one {hour |}{oh two|two|zero two} {minutes |}{and |}thirty three{ seconds|}
Call 1-800-555-0199. || call one eight {hundred|zero zero|oh oh} five five five {zero|oh|o} one nine nine
Dial 911 now. || dial {nine one one|nine eleven|nine hundred eleven} now
My zip is 90210. || my zip is {nine zero two one zero|nine oh two one oh|ninety thousand two hundred ten}
Room 101 is free. || room {one oh one|one hundred one|one o one} is free
Agent 007 came. || agent {zero zero seven|double oh seven|o o seven|oh oh seven} came
Visit www.example.com today. || visit {w w w|www} dot example dot com today
Visit https://example.org/a-b now. || visit {h t t p s|https} colon slash slash example dot org slash a dash b now
Write to foo.bar@mail.org please. || write to foo dot bar at mail dot org please
Email john_doe@gmail.com now. || email john underscore doe at gmail dot com now
We have 2 + 2 = 4. || we have two plus two equals four
If x < 5 then stop. || if x {is less than|less than} five then stop
The sum is 3 × 4. || the sum is three times four
It is 10 ± 2 here. || it is ten plus {or |}minus two here
We need n ≥ 3. || we need n {is at least|greater than or equal to|is greater than or equal to|at least} three
The value of π is 3.14159. || the value of pi is three point one four one five nine
The α and β rays. || the alpha and beta rays
An angle of θ = 30°. || an angle of theta equals thirty degrees
The √2 is irrational. || the {square root of two} is irrational
AT&T and R&D grew. || {at|a t} and t and r and d grew
Salt & pepper. || salt and pepper
He is #1 here. || he is number one here
It fell 0.05 points. || it fell {zero|oh|} point {zero|oh|o} five points
A .5 share. || a {zero |}point five share
It is 1,234,567 now. || it is one million two hundred thirty four thousand five hundred sixty seven now
There were 1,500 people. || there were one thousand five hundred people
There were 1500 people. || there were {one thousand five hundred|fifteen hundred} people
There were 10000 of them. || there were ten thousand of them
He has 1000000 coins. || he has one million coins
It was -40 outside. || it was minus forty outside
Python 3.11 is out. || python three point {eleven|one one} is out
Version 2.10.3 is out. || version two {point|dot} {ten|one zero} {point|dot} three is out
The IP is 192.168.0.1 here. || the i p is one hundred ninety two dot one hundred sixty eight dot zero dot one here
Use GPT-4 or COVID-19 data. || use {gpt|g p t} four or covid nineteen data
A B-52 flew by. || a b fifty two flew by
The Boeing 747 landed. || the boeing {seven forty seven|seven hundred forty seven|seven four seven} landed
A Boeing-747 landed. || a boeing {seven forty seven|seven hundred forty seven|seven four seven} landed
H2O and CO2 are common. || h {two|2} o and {co|c o} two are common
Add H₂SO₄ now. || add h two {so|s o} four now
An F-16 and an A380. || an f sixteen and an a {three eighty|three hundred eighty}
My 3D glasses. || my three d glasses
An MP3 file. || an {mp|m p} three file
A 4x4 truck. || a four {by|x|times} four truck
It won 3-2 today. || it won three {to|} two today
The score was 21:19. || the score was twenty one {to|} nineteen
Pages 12-15 are torn. || pages twelve to fifteen are torn
See pp. 12–15 there. || see pages twelve to fifteen there
He's 6-foot-2. || he's six foot two
A 5-year-old boy. || a five year old boy
The naïve café owner. || the naive cafe owner
Well—yes, I do. || well yes i do
The well-known man. || the well known man
It was 9/11 again. || it was {nine eleven|nine over eleven|nine elevenths} again
It opens 24/7. || it opens twenty four seven
He/she may come. || he {slash |or |}she may come
Yes and/or no. || yes and {slash |}or no
Section § 5 applies. || section {section |}five applies
The 5 o'clock train. || the five o'clock train
She said "hello" to him. || she said hello to him
It has 5,000+ users. || it has five thousand plus users
Over 2,000 km² burned. || over two thousand {square kilometers|kilometers squared} burned
Windows XP and Mac OS X. || windows {x p|xp} and mac {o s x|os x}
The 1920s and 30s. || the nineteen twenties and thirties
The no. 7 bus. || the number seven bus
Mt. Everest is 8,849 m high. || mount everest is eight thousand eight hundred forty nine meters high
A 10 km/h wind and 5 V supply. || a ten kilometers per hour wind and five {volts|volt} supply
Sales rose 5% to $2.3bn. || sales rose five percent to two point three billion dollars
Capt. Kirk flew 3 light-years. || captain kirk flew three light years
On June 6, 1944, they landed. || on june sixth nineteen forty four they landed
The 14 July 1789 riot. || the {fourteenth of july|fourteen july|fourteenth july} seventeen eighty nine riot
The law of 1832 failed. || the law of eighteen thirty two failed
He was 18 in 2010. || he was eighteen in {twenty ten|two thousand ten}
Between 1861 and 1865. || between eighteen sixty one and eighteen sixty five
About 2,300 ships sank. || about two thousand three hundred ships sank
It has 48 pages and 300 photos. || it has forty eight pages and three hundred photos
The 1700s were grim. || the seventeen hundreds were grim
A fine of $250. || a fine of two hundred fifty dollars
Worth $1.2 million today. || worth one point two million dollars today
He owes me $0.75. || he owes me {zero dollars and |zero dollars |}seventy five cents
It sold for €9.99. || it sold for nine {euros and|euros} ninety nine {cents|}
A £10 note. || a ten {pound|pounds} note
Roughly 15% of 80. || roughly fifteen percent of eighty
It rose 0.3%. || it rose zero point three percent
Use 1/4 tsp of salt. || use {one quarter|one fourth|a quarter} {teaspoon|teaspoons} of salt
A 7/8 share. || a seven eighths share
The 3rd of May. || the third of may
Her 50th birthday. || her fiftieth birthday
King George III and Queen Elizabeth II. || king george the third and queen elizabeth the second
Volume XII of the set. || volume twelve of the set
Act II is long. || act two is long
Rev. Moore and Gen. Lee met. || reverend moore and general lee met
Sgt. Pepper and Gov. Reed. || sergeant pepper and governor reed
He came on Feb. 3. || he came on february {third|three}
Ms. Ray of Ray Co. called. || {miz|miss|ms} ray of ray company called
W. E. B. Du Bois wrote. || w e b du bois wrote
C. S. Lewis wrote it. || c s lewis wrote it
The E.U. and the U.N. || the e u and the u n
Open 9 a.m. to 5 p.m. daily. || open nine a m to five p m daily
Wake me at 6:45. || wake me at six forty five
The 3:15 pm flight. || the three fifteen p m flight
Lunch at 12:30 PM. || lunch at twelve thirty p m
It is 15 miles or 24 km. || it is fifteen miles or twenty four kilometers
A 2.5 m pole. || a two point five {meters|meter} pole
Weighs 70 kg, 180 cm tall. || weighs seventy kilograms one hundred eighty centimeters tall
It boils at 100 °C. || it boils at one hundred degrees celsius
A wave of 500 nm. || a wave of five hundred nanometers
A 512 MB file at 3 GHz. || a five hundred twelve {megabytes|megabyte} file at three gigahertz
He drank 250 mL. || he drank two hundred fifty milliliters
See www.python.org for it. || see {w w w|www} dot python dot org for it
Mail bob@site.com. || mail bob at site dot com
If a > b, then a - b > 0. || if a {is |}greater than b then a {minus |}b {is |}greater than zero
So 7 × 8 = 56. || so seven times eight {equals|is} fifty six
The β-carotene diet. || the beta carotene diet
Take λ = 2. || take lambda {equals|is} two
B. Franklin & Sons. || b franklin and sons
Version 1.2 is old. || version one point two is old
The Apollo 11 crew. || the apollo eleven crew
Flight BA249 left. || flight b a two {hundred forty nine|four nine|forty nine} left
Highway I-95 is closed. || highway i ninety five is closed
Catch-22 is a book. || catch twenty two is a book
A 10-year-old boy and 3-day trip. || a ten year old boy and three day trip
They won 4-1. || they won four {to|} one
Chapters 3-7 are hard. || chapters three to seven are hard
A ratio of 2:1. || a ratio of two {to |}one
John 3:16 says so. || john three sixteen says so
It was -12.5 degrees. || it was minus twelve point five degrees
The fiancée's résumé. || the fiancee's resume
Ten years (1990-2000) passed. || ten years nineteen ninety to two thousand passed
The end of World War II (May 1945) came. || the end of world war two may nineteen forty five came
A charge of -1/3 and the 13TH FLOOR. || a charge of minus one third and the thirteenth floor
Urban (1042-1099) and Otto I. || urban ten forty two to ten ninety nine and otto the first
From September 23 to October 4. || from september twenty {third|three} to october {fourth|four}
A hen of 3 1/2 lb. || a hen of three and a half pounds
"""
READINGS = [tuple(part.strip() for part in line.split(" || ")) for line in TEXT.strip().splitlines()]


def squash(text: str) -> str:
    words = re.sub("[^a-z ]", "", text.lower().replace("-", " ")).split()
    return re.sub(r"\b(?:[a-z] )+[a-z]\b", lambda match: match[0].replace(" ", ""), " ".join(without_and(words)))


def accepts(said: str, gold: str) -> bool:
    """Whether ``said`` is one of the readings of ``gold``."""
    parts = [part.split("|") for part in re.split(r"[{}]", gold)]
    return squash(said) in {squash("".join(one)) for one in itertools.product(*parts)}
