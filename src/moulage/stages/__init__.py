"""The stages of a study, one a file: what each depends on, what it does, what it saw, and how that is proven.

``stage`` says what a stage is; ``data`` comes before all others; ``plan`` lists the stages of a recipe. Whoever runs,
shows or proves stages asks them, and knows no kind; ``collect`` alone picks out kinds, for what they found.
"""
