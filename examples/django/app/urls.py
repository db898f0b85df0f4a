from django.http import HttpRequest, HttpResponse
from django.urls import path
from wishes.models import Wish


def wishes(request: HttpRequest) -> HttpResponse:
    return HttpResponse("".join(f"{wish.text}\n" for wish in Wish.objects.order_by("id")), content_type="text/plain")


urlpatterns = [path("", wishes)]
