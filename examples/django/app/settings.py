import os

SECRET_KEY = "for development only"
DEBUG = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["wishes"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DATABASE_NAME"]}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
