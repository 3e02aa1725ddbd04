"""Reader tests: can people tell generated images from real ones? Multi-reader multi-case analysis of their answers.

``answers.read`` reads a table, ``score.score`` finds a ``study.ReaderStudy``. Each part stands alone, for anyone's
data: ``estimates`` (AUC, covariances), ``obuchowski_rockette`` (readers and lesions random), ``detection`` (d',
criterion, error rates), ``agreement`` (Krippendorff's alpha), ``learning``.
"""
