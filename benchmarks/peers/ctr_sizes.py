"""Sizes of the CTR models that all libraries train. It imports nothing, as all environments do."""

EMBEDDING_SIZE = 32
HIDDEN_SIZES = (256, 256, 256)
CROSS_LAYERS = 3
ATTENTION_LAYERS = 3  # one head of EMBEDDING_SIZE
CIN_SIZES = (25, 25, 25)
BATCH_SIZE = 1024
LEARNING_RATE = 1e-3
MODELS = ("deepfm", "dcnv2", "autoint", "xdeepfm")
FIELDS = ("user_id", "gender", "age", "occupation", "zip", "movie_id", "title", "genre")
