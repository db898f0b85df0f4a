from django.db import models


class Wish(models.Model):
    text = models.CharField(max_length=200)
