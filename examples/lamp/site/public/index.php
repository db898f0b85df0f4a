<?php
header('Content-Type: text/plain; charset=utf-8');
$guests = (new mysqli('localhost', 'www-data', null, 'site'))->query('SELECT name FROM guests ORDER BY id');
echo 'Hello from ', $_SERVER['SITE_NAME'], "\n";
echo 'Uploads up to ', ini_get('upload_max_filesize'), "\n";
foreach ($guests as $guest) {
    echo 'Guest: ', $guest['name'], "\n";
}
