"""What the methods paragraph calls each plug-in, and where a method was published."""

REFERENCES = {
    "ada": "T. Karras et al., Training generative adversarial networks with limited data, NeurIPS (2020).",
    "berger": "R. L. Berger, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24 (1982).",
    "binkowski": "M. Bińkowski et al., Demystifying MMD GANs, ICLR (2018).",
    "cao": "K. Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss, NeurIPS (2019).",
    "cochran": "W. G. Cochran, Sampling Techniques, 3rd ed. (1977).",
    "cubuk": "E. D. Cubuk et al., RandAugment: practical automated data augmentation with a reduced search space, "
    "NeurIPS (2020).",
    "cui": "Y. Cui et al., Class-balanced loss based on effective number of samples, CVPR (2019).",
    "davison": "A. C. Davison and D. V. Hinkley, Bootstrap Methods and their Application (1997).",
    "edm": "T. Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS (2022).",
    "efron": "B. Efron and C. Stein, The jackknife estimate of variance, Annals of Statistics 9 (1981).",
    "galerne": "B. Galerne, Y. Gousseau and J.-M. Morel, Random phase textures: theory and synthesis, IEEE "
    "Transactions on Image Processing 20 (2011).",
    "guo": "C. Guo et al., On calibration of modern neural networks, ICML (2017).",
    "holm": "S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 "
    "(1979).",
    "hu": "E. J. Hu et al., LoRA: low-rank adaptation of large language models, ICLR (2022).",
    "huang": "Y. Huang et al., The GAN is dead; long live the GAN! A modern GAN baseline, NeurIPS (2024).",
    "kang": "B. Kang et al., Decoupling representation and classifier for long-tailed recognition, ICLR (2020).",
    "karras": "T. Karras et al., Progressive growing of GANs for improved quality, stability, and variation, ICLR "
    "(2018).",
    "kumar": "A. Kumar et al., Fine-tuning can distort pretrained features and underperform out-of-distribution, ICLR "
    "(2022).",
    "lin": "T.-Y. Lin et al., Focal loss for dense object detection, ICCV (2017).",
    "liu": "B. Liu et al., Towards faster and stabilized GAN training for high-fidelity few-shot image synthesis, ICLR "
    "(2021).",
    "menon": "A. K. Menon et al., Long-tail learning via logit adjustment, ICLR (2021).",
    "muller": "S. G. Müller and F. Hutter, TrivialAugment: tuning-free yet state-of-the-art data augmentation, ICCV "
    "(2021).",
    "nadeau": "C. Nadeau and Y. Bengio, Inference for the generalization error, Machine Learning 52 (2003).",
    "owen": "A. B. Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007).",
    "radford": "A. Radford, L. Metz and S. Chintala, Unsupervised representation learning with deep convolutional "
    "generative adversarial networks, ICLR (2016).",
    "ren": "J. Ren et al., Balanced meta-softmax for long-tailed visual recognition, NeurIPS (2020).",
    "rombach": "R. Rombach et al., High-resolution image synthesis with latent diffusion models, CVPR (2022).",
    "satterthwaite": "F. E. Satterthwaite, An approximate distribution of estimates of variance components, Biometrics "
    "Bulletin 2 (1946).",
    "sauer": "A. Sauer et al., Projected GANs converge faster, NeurIPS (2021).",
    "schuirmann": "D. J. Schuirmann, A comparison of the two one-sided tests procedure and the power approach, Journal "
    "of Pharmacokinetics and Biopharmaceutics 15 (1987).",
    "stylegan2": "T. Karras et al., Analyzing and improving the image quality of StyleGAN, CVPR (2020).",
    "szegedy": "C. Szegedy et al., Rethinking the Inception architecture for computer vision, CVPR (2016).",
    "wang": "T.-C. Wang et al., High-resolution image synthesis and semantic manipulation with conditional GANs, CVPR "
    "(2018).",
    "yun": "S. Yun et al., CutMix: regularization strategy to train strong classifiers with localizable features, ICCV "
    "(2019).",
    "zhang": "H. Zhang et al., mixup: beyond empirical risk minimization, ICLR (2018).",
}
"""Key -> the work as it is printed in a list of references."""

BALANCE = {
    "balanced_softmax": ("balanced softmax", ("ren",)),
    "class_weights": ("a loss weighted by class", ("cui",)),
    "crt": ("a classifier re-trained on balanced classes", ("kang",)),
    "cutmix": ("CutMix", ("yun",)),
    "focal": ("focal loss", ("lin",)),
    "label_smoothing": ("label smoothing", ("szegedy",)),
    "ldam_drw": ("LDAM with deferred re-weighting", ("cao",)),
    "linear_probe": ("a linear classifier on a frozen network", ("kumar",)),
    "logit_adjustment": ("logit adjustment in the loss", ("menon",)),
    "logit_adjustment_posthoc": ("the log of the class shares taken off the logits at prediction", ("menon",)),
    "mixup": ("mixup", ("zhang",)),
    "oversampling": ("class-balanced sampling", ("kang",)),
    "oversampling_strong": ("class-balanced sampling with strong augmentation", ("kang", "muller", "cubuk")),
    "randaugment": ("RandAugment", ("cubuk",)),
    "trivialaugment": ("TrivialAugment", ("muller",)),
}
"""Balance plug-in -> what it is called, and its references. Others go by their own name."""

GENERATORS = {
    "dcgan": ("a DCGAN", ("radford",)),
    "diffusion": ("a diffusion model in pixels", ("edm",)),
    "fastgan": ("FastGAN", ("liu",)),
    "finetuned_diffusion": ("a pre-trained latent diffusion model, fine-tuned by low-rank matrices", ("rombach", "hu")),
    "noise": ("a generator of random-phase textures without a lesion", ("galerne",)),
    "pix2pixhd": ("pix2pixHD drawing into lesion masks", ("wang",)),
    "progressive": ("a progressively grown GAN", ("karras",)),
    "projected_gan": ("a projected GAN with the generator of FastGAN", ("sauer", "liu")),
    "r3gan": ("R3GAN", ("huang",)),
    "stylegan2": ("StyleGAN2 with adaptive discriminator augmentation", ("stylegan2", "ada")),
}
"""Generator plug-in -> what it is called, and its references. Others go by their own name."""

INTERVALS = {
    "closed form": ("by linearisation", ("cochran",)),
    "lesion bootstrap": ("by a bootstrap of lesions within each class", ("davison",)),
    "lesion jackknife": ("by the lesion jackknife", ("efron",)),
}
"""Method of a comparison -> how its variance over lesions was estimated."""
