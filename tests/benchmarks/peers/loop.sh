#!/bin/sh
# What one would write with curl and jq: one picture after the other, asked for each second.
set -eu
api() {
    curl -sS --fail -H "Authorization: $APIFRAME_API_KEY" -H 'Content-Type: application/json' -d @- "$FLUX_CLI_API_URL/$1"
}
mkdir -p out
while IFS= read -r prompt; do
    id=$(jq -n --arg prompt "$prompt" '{model: "flux-pro", prompt: $prompt}' | api flux-imagine | jq -r .task_id)
    image=
    while [ -z "$image" ]; do
        sleep 1
        image=$(jq -n --arg id "$id" '{task_id: $id}' | api fetch | jq -r '.image_url // empty')
    done
    curl -sS --fail -o "out/$id.png" "$image"
done <rows.txt
