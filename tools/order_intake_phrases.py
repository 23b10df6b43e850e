"""Phrases of the messages in data/order_intake, written by hand. People, places and firms are invented."""

from __future__ import annotations

PRODUCTS = {
    "rye loaf": ["rye loaves", "loaves of rye", "dark rye", "rye breads", "of the rye"],
    "sourdough": ["sourdoughs", "sourdough loaves", "of your sourdough", "big sourdough rounds"],
    "baguette": ["baguettes", "French sticks", "long baguettes", "crusty baguettes"],
    "ciabatta": ["ciabattas", "ciabatta", "ciabatta slippers", "ciabatta rolls"],
    "bagel": ["bagels", "poppy bagels", "boiled bagels", "of those bagels"],
    "croissant": ["croissants", "butter croissants", "of the plain croissants", "breakfast croissants"],
    "cinnamon bun": ["cinnamon buns", "cinnamon swirls", "cinnamon rolls", "of the sticky cinnamon ones"],
    "apple tart": ["apple tarts", "tarts with apple", "tartes aux pommes", "small apple tarts"],
    "cheese straw": ["cheese straws", "cheesy twists", "of the cheese sticks", "cheese twists"],
    "scone": ["scones", "fruit scones", "cream-tea scones", "of your scones"],
    "brownie": ["brownies", "chocolate brownies", "brownie squares", "of the fudgy brownies"],
    "focaccia": ["focaccias", "trays of focaccia", "focaccia slabs", "rosemary focaccias"],
}
DAYS = {
    "monday": ["Monday", "Mon", "Monday morning"],
    "tuesday": ["Tuesday", "Tues", "Tuesday first thing"],
    "wednesday": ["Wednesday", "Weds", "Wednesday before lunch"],
    "thursday": ["Thursday", "Thurs", "Thursday at seven"],
    "friday": ["Friday", "Fri", "Friday afternoon"],
    "saturday": ["Saturday", "Sat", "Saturday early"],
    "sunday": ["Sunday", "Sun", "Sunday for the brunch"],
}
EXTRAS = {
    "sliced": ["sliced", "pre-sliced", "put through the slicer", "cut into slices"],
    "gift box": ["in a gift box", "boxed up as a present", "in those ribbon boxes", "gift-boxed"],
    "no nuts": ["without any nuts", "strictly nut free", "no nuts anywhere near them", "nut-free, we have an allergy"],
    "vegan": ["vegan", "made without butter or egg, for vegans", "the vegan version", "plant-based ones"],
    "wholemeal": ["in wholemeal", "with wholemeal flour", "the wholemeal kind", "wholemeal, not white"],
    "half baked": ["half baked so we can finish them", "part-baked", "only half baked", "par-baked for our own oven"],
}
TYPES = """Cafe Hotel Bistro Bar Hostel Deli Pension Canteen Kiosk Restaurant Brasserie Studio Villa Casa Chez Trattoria Camp
Club Salon Theatre Taverna""".split()
KINDS = """Primary,Nursery,Tearoom,Dental,Catering,Rowing Club,Golf Club,Care Home,Boathouse,Infirmary,Library,Allotments,Printers,
Vets,Garage,Farm Shop,Village Hall,Arts Centre,Museum,Youth Hostel,Scouts,Choir,Cricket Club,Surgery,Solicitors,Brewery,Bakes,
Events,Coffee,Sandwiches,Coaches,Ferries,Stables,Campsite,Hospice,High School,College,Wine Bar,Market Stall,Cinema,Food Bank,
Sports Hall,Boat Trips,Garden Centre,Kitchen,Laundry,Radio,Yoga,Ceramics,Film Club""".replace("\n", "").split(",")
LANDS = """Marsh End,Old Quay,North Bridge,Gable Street,Canal Row,Upper Wold,Hollow Lane,Saltmarsh,East Pier,Harrow Hill,
Long Acre,Tollgate,Mill Pond,Station Road,Abbey Green,Windy Ridge,Lower Ford,Castle Mount,Brook Side,South Dock,Beech Walk,
Chapel Yard,Ferry Lane,Stone Cross,Watery Lane,High Moor,Fishergate,Crooked Mile,Larch Grove""".replace("\n", "").split(
    ","
)
SURNAMES = """Lindqvist Marlow Bellweather Halden Orsini Verity Pollard Corso Pellegrin Winterbourne Ravensworth Ostrava Montreux
Perrine Okoro Ashdown Baptiste Carmody Delacroix Eklund Farrow Gwynne Haverill Iwasaki Jessop Kowalska Lovelace Mbeki Nakamura
Oyelaran Pettifer Quigley Rossiter Sedgwick Trevanion Uddin Vasquez Whitlock Yardley Zielinski Abernathy Brockhurst Cavendish
Dunmore Elphick Fairweather Goodchild Hathersage Ingleby Janssen Kershaw Langtry Moncrieff Nettleship Osgood Penhaligon Rasmussen
Stanhope Thackeray Underhill Varley Wolstenholme Youngblood Amadi Bjornstad Castellano Drummond Esterhazy Fitzroy""".split()
ADJECTIVES = """Copper Blue Crooked Gilded Hungry Idle Jolly Laughing Merry Noisy Olive Painted Rusty Silver Tipsy Velvet Wandering
Yellow Amber Brass Crimson Dusty Early Flying Green Hidden Iron Last Muddy Narrow Plucky Restless Scarlet Thirsty Wooden""".split()
THINGS = """Heron Anchor Kettle Juniper Kingfisher Larkspur Galleon Dovecote Thistle Foxglove Lantern Badger Compass Drum Elm Fiddle
Goose Hammer Ivy Jackdaw Ladder Magpie Nutmeg Otter Plough Quill Raven Saddle Teapot Wagon Bramble Candle Donkey Falcon Grapevine
Hedgehog Tortoise Millstone Poppy Sparrow""".split()
FIRST_NAMES = """Anna Bertil Chidi Dora Emeka Freya Gus Hana Imran Joss Kemal Leonie Milos Nadia Otis Priya Quentin Rosa Soren Tilly
Umar Vera Winnie Yusuf Zelda Alba Bruno Celia Dov Esme""".split()
FORMS = [
    "{type} {surname}", "{type} {thing}", "The {adjective} {thing}", "{adjective} {thing} {kind}", "{land} {kind}",
    "{surname} {kind}", "{surname}'s", "{first}'s {kind}", "{surname} & {other}", "{thing} & {adjective}", "{land} {kind}",
    "{first} {surname}", "St {first}'s {kind}", "{thing} and {land}", "{type} {land}", "{surname} & Sons", "{thing} {kind}",
]  # fmt: skip
"""Ways to name a customer. A model that sees few names learns these names, and not how to copy one."""
RARE = [
    "Yardarm Tea Room", "Pugin House", "Villa Serafina", "Brasserie Twenty", "Cobble Yard", "Hexham Court",
    "The Gilded Pear", "Loft on Vine", "Casa Ondina", "The Muddy Paddle", "Wren & Daughters", "Halfpenny Inn",
    "Ebb Tide Cabin", "Klara's Corner", "The Long Shed", "Tinker's Rest", "Opal Rooms", "Greaves Academy",
    "Bishop's Larder", "The Third Wheel", "Sundial Spa", "Fjord Canteen", "Maison Brulard", "Ferry Terminal Cafe",
    "The Quiet Carriage", "Nettle Farm Shop", "Plume", "Ivory Tower Bar",
]  # fmt: skip
OPENINGS = [
    "Hi,", "Hello,", "Good morning,", "Morning!", "Hey there,", "Dear all,", "Dear baker,", "Hiya,", "Evening,",
    "Hi team,", "Hello again,", "Hi, me again.", "To whoever takes the orders:", "Afternoon all,", "Hi folks,",
    "Good day,", "", "", "", "", "Quick one:", "Order please:", "Hi Corvel Mill,", "Hallo,", "New order.",
    "Hope you are well.", "Greetings,", "Yo,",
]  # fmt: skip
REQUESTS = [
    "could we have {what}",
    "we need {what}",
    "please put us down for {what}",
    "I'd like to order {what}",
    "can you do {what}",
    "make it {what}",
    "we would love {what}",
    "we'll take {what}",
    "I am after {what}",
    "would it be possible to get {what}",
    "our usual order changes to {what}",
    "send us {what}",
    "kindly reserve {what}",
    "we've run low and want {what}",
    "the boss says {what}",
    "let me have {what}",
    "what we need this time is {what}",
    "please bake {what} for us",
    "one line only: {what}",
    "I make it {what}",
    "there's a christening, so {what}",
    "for the staff breakfast, {what} should do it",
    "mark me up for {what}",
    "{what}, that is all",
    "put {what} on the van",
    "we counted heads and it comes to {what}",
    "the kitchen asks for {what}",
    "after some arguing we settled on {what}",
    "if you have them, {what}",
    "I forgot to order! {what}",
    "as agreed at the market, {what}",
    "may I trouble you for {what}",
    "this is for {what}",
    "the book club eats a lot, so {what}",
    "all stock is fine, only we want {what}",
    "we are trying out your {product}: {amount} to begin with",
    "{product}, quantity {amount}",
    "{product} x {amount}",
    "how about {amount} this time, of the {product}",
    "on the {product} front, {amount} would be right",
]
WITH_DAY = [
    "{request} for {day}.",
    "{request}, {day}.",
    "for {day}, {request}.",
    "{request}, delivered {day}?",
    "{request} on {day}, if that suits.",
    "{day}: {request}.",
    "{request}. It has to be here {day}.",
    "{request}, and we collect {day}.",
    "Looking at {day}, {request}.",
    "{request} by {day} please.",
    "{request}. Delivery {day}, back door.",
    "Next delivery is {day}, isn't it? Then {request}.",
]
WISHES = [
    "All of them {wish}.",
    "They should be {wish}.",
    "Please have them {wish}.",
    "We want them {wish}.",
    "And {wish}, please.",
    "Same as always, {wish}.",
    "One wish: {wish}.",
    "If you can, {wish}.",
    "My colleague insists: {wish}.",
    "Don't forget, {wish}.",
]
HERRINGS = [
    "Not {n} as I said on the phone.",
    "Last week's {n} {product} were lovely by the way.",
    "We still have {n} {product} in the freezer, so none of those.",
    "Ignore the message about {n} {product}.",
    "The {product} can wait until next month.",
    "My first note said {n}, that was a slip.",
    "Somebody here asked about {product}, but no.",
    "We had {n} guests yesterday, what a day.",
    "Your driver once left {n} {product} next door.",
    "No {product} this time.",
    "Our address is still {n} Orchard Row.",
    "I cancelled the {product} yesterday, I hope that got through.",
    "The shop opens at {n} minutes past, just so you know.",
    "Not the {product}, nobody touched those.",
]
URGENT = [
    "This is urgent.",
    "Treat it as a rush, we are desperate.",
    "It really cannot wait.",
    "URGENT please!",
    "Sorry, it is a bit of an emergency.",
    "We are stuck without it, so hurry.",
    "Top priority for us.",
    "Push this to the front of the queue.",
    "Short notice, I know, but critical.",
    "Asap!",
]
CHATTER = [
    "The weather has kept everyone indoors and hungry.",
    "Regulars keep asking who bakes for us.",
    "Thanks for fixing the invoice so quickly.",
    "The new driver is a treasure.",
    "We are repainting, so mind the ladder at the entrance.",
    "My daughter starts with you in the summer, she is thrilled.",
    "Parking is tight because of the fair.",
    "The card reader works again, finally.",
    "Half of the team is down with a cold.",
    "I tried calling, nobody picked up.",
    "Your crates are stacked by the bins, take them with you.",
    "The dog will be tied up this time, promise.",
    "Football final on the big screen, so we expect a crowd.",
    "The lift is broken, use the ramp.",
    "Chef is back from leave and in a good mood.",
    "A wedding party booked the whole terrace.",
    "We changed the locks; ring the bell twice.",
    "The oven man came and shook his head.",
    "You may have heard that we won the tidy street prize.",
    "Sorry for writing this late.",
    "Typing with one hand, baby in the other.",
    "Accounts pay at the end of the month.",
    "The choir was delighted with the last delivery.",
    "Roadworks on the bridge, come by the station.",
    "Please say hello to Ingrid at the counter.",
    "No rush with the paperwork.",
    "We lost the price list again, could you send one along?",
    "The exam season makes them eat like horses.",
    "It smells wonderful when your van pulls up.",
    "I have told the night porter.",
    "The last ones were a touch pale, but tasty.",
    "We have a food critic coming, fingers crossed.",
    "There's a spare key under the blue pot.",
    "Our fridge beeped all night.",
    "The tourists are back and so are the queues.",
    "Everyone loved the seeds on top.",
]
FROM = [
    "This is {customer}.",
    "{customer} here.",
    "It's {customer} calling in an order.",
    "Writing for {customer}.",
    "On behalf of {customer}:",
    "{customer} speaking.",
    "I run {customer} and",
    "Order from {customer}.",
    "You know us, {customer}.",
    "Account: {customer}.",
    "Greetings from {customer}.",
    "I have just taken over at {customer}.",
    "{first} here from {customer}.",
    "It's {first} at {customer}.",
    "{first}, {customer}.",
    "{customer} ({first} on the phone).",
    "From: {customer}. Contact: {first}.",
    "My name is {first} and I order for {customer}.",
]
INSIDE = [
    "For {customer}: {request}", "{customer}: {request}", "{customer} / {request}", "{request} That's for {customer}.",
    "{customer} would like this: {request}", "{request} To {customer}, as ever.", "{request} Put it on {customer}, please.",
    "{customer} again. {request}", "From {customer} with a smile: {request}", "Taken down by {first}: {customer}. {request}",
]  # fmt: skip
SIGNED = [
    "\n{customer}",
    "\nThanks, {customer}",
    "\nBest, {customer}",
    "\n\nKind regards\n{customer}",
    "\nCheers from {customer}",
    " Yours, {customer}.",
    " Many thanks from {customer}.",
    "\nBill to {customer} as usual.",
    "\n-- {customer}",
    "\nSincerely,\nthe kitchen of {customer}",
    " Deliver to {customer}.",
    "\nLove, everyone at {customer}",
    "\n{first}\n{customer}",
    "\nThanks, {first} ({customer})",
    " - {first}, {customer}",
    " For {customer}, and my name is {first}.",
]
CLOSINGS = [
    "Thanks!", "Thank you.", "Cheers.", "Ta.", "Many thanks in advance.", "See you then.", "Best wishes.",
    "Let me know.", "", "", "Bye for now.", "Much obliged.", "Please confirm.", "That's it.", "Have a good one.",
    "Speak soon.", "You're stars.",
]  # fmt: skip
