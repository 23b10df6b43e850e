"""Sentences that mean the same in other words, and sentences in the same words that do not."""

from __future__ import annotations

PARAPHRASES = """
How do I reset my password?|I forgot my login code, how can I get a new one?
I want to cancel my order|Please stop the purchase I made
Where is my package?|My parcel has not arrived yet, can you track it?
What is the capital of France?|Which city is the seat of the French government?
I would like a refund|Give me my money back
The app crashes when I open it|Every time I launch the application it shuts down
How much does shipping cost?|What do I have to pay for delivery?
Can I change my delivery address?|I need the parcel sent to a different place
Book a table for two tonight|Reserve a restaurant for a couple this evening
What will the weather be like tomorrow?|Give me the forecast for the next day
Turn on the lights in the kitchen|Switch the kitchen lamps on
My credit card was declined|The payment with my card did not go through
Do you have this shirt in blue?|Is the blue version of this shirt available?
I was charged twice|You took the money from my account two times
How do I delete my account?|I want my profile removed
What are your opening hours?|When is the shop open?
Set an alarm for seven in the morning|Wake me up at 7 am
Translate hello into Spanish|How do you say hello in Spanish?
The screen of my phone is broken|My mobile's display is cracked
I can't connect to the internet|My wifi is not working
Is breakfast included in the price?|Does the room rate cover breakfast?
How long does the battery last?|What is the battery life?
Recommend a good book|Which novel should I read?
The food was delicious|The meal tasted wonderful
I need help with my homework|Could you assist me with a school assignment?
Who wrote Hamlet?|Name the author of Hamlet
How many people live in Berlin?|What is the population of Berlin?
Play some jazz music|Put on a jazz song
What is the fastest way to the airport?|How do I get to the airport quickly?
My flight was cancelled|The airline called off my flight
I lost my wallet on the train|My purse was left behind in the railway carriage
Summarise this article|Give me a short version of this text
Fix the bug in this function|Correct the error in this code
Transfer money to my savings account|Move funds into my savings
Which vaccines do I need for Kenya?|What shots are required to travel to Kenya?
The invoice is wrong|There is a mistake in the bill
Where can I buy tickets?|Which place sells tickets?
How old is the universe?|What is the age of the universe?
Show me cheap hotels in Rome|Find inexpensive places to stay in Rome
I am allergic to nuts|I cannot eat nuts because of an allergy
"""

HARD_NEGATIVES = """
How do I reset my password?|How do I reset my phone?
I want to cancel my order|I want to repeat my order
Where is my package?|Where is my refund?
What is the capital of France?|What is the capital of Finland?
I would like a refund|I would like a receipt
The app crashes when I open it|The app asks for an update when I open it
How much does shipping cost?|How long does shipping take?
Can I change my delivery address?|Can I change my e-mail address?
Book a table for two tonight|Cancel the table for two tonight
What will the weather be like tomorrow?|What was the weather like yesterday?
Turn on the lights in the kitchen|Turn off the lights in the kitchen
My credit card was declined|My credit card was stolen
Do you have this shirt in blue?|Do you have this shirt in large?
I was charged twice|I was called twice
How do I delete my account?|How do I verify my account?
What are your opening hours?|What are your prices?
Set an alarm for seven in the morning|Delete the alarm for seven in the morning
Translate hello into Spanish|Translate goodbye into Spanish
The screen of my phone is broken|The screen of my phone is too dark
I can't connect to the internet|I can connect to the internet
Is breakfast included in the price?|Is parking included in the price?
How long does the battery last?|How long does the battery take to charge?
Recommend a good book|Recommend a good film
The food was delicious|The food was cold
I need help with my homework|I need help with my tax return
Who wrote Hamlet?|Who played Hamlet?
How many people live in Berlin?|How many people work in Berlin?
Play some jazz music|Stop the jazz music
What is the fastest way to the airport?|What is the cheapest way to the airport?
My flight was cancelled|My flight was delayed
I lost my wallet on the train|I found a wallet on the train
Summarise this article|Translate this article
Fix the bug in this function|Explain the bug in this function
Transfer money to my savings account|Transfer money from my savings account
Which vaccines do I need for Kenya?|Which documents do I need for Kenya?
The invoice is wrong|The invoice is late
Where can I buy tickets?|Where can I return tickets?
How old is the universe?|How old is the president?
Show me cheap hotels in Rome|Show me cheap flights to Rome
I am allergic to nuts|I am not allergic to nuts
"""


def pairs(lines: str) -> list[tuple[str, str]]:
    """The two sentences of every line."""
    return [(a, b) for a, b in (line.split("|") for line in lines.strip().splitlines())]
