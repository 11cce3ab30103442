"""Writes the JSON schema of one kind of a Kubernetes API extension, for tests/schemas.

    crd-schema.py KIND VERSION <CUSTOM_RESOURCE_DEFINITIONS.yaml >tests/schemas/GROUP_KIND.json

Descriptions are left out, and a member that the schema does not name is refused, as `kubectl --validate=strict`
does it. Rules in CEL are not kept: no JSON schema can say them. Needs PyYAML; only who renews a schema runs this.
"""

import json
import sys

import yaml


def strict(schema):
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for name, value in schema.items():
        if name == "properties":
            kept[name] = {member: strict(inner) for member, inner in value.items()}
        elif name in ("items", "additionalProperties", "not"):
            kept[name] = strict(value)
        elif name in ("allOf", "anyOf", "oneOf"):
            # These say which members are there, not what they are.
            kept[name] = value
        elif name in ("description", "default", "format", "example") or name.startswith("x-kubernetes-"):
            continue
        else:
            kept[name] = value
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not is_open:
        kept["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        kept.pop("anyOf", None)
        kept["type"] = ["integer", "string"]
    return kept


def main():
    kind, version = sys.argv[1:]
    # Helm's conditions around a definition are no YAML.
    text = "".join(line for line in sys.stdin if not line.startswith("{{"))
    for definition in yaml.safe_load_all(text):
        if not definition or definition["spec"]["names"]["kind"] != kind:
            continue
        [found] = [v for v in definition["spec"]["versions"] if v["name"] == version]
        schema = strict(found["schema"]["openAPIV3Schema"])
        properties = schema["properties"]
        properties["apiVersion"] = {"const": f"{definition['spec']['group']}/{version}"}
        properties["kind"] = {"const": kind}
        # The API server's own: names and labels.
        properties["metadata"] = {"type": "object"}
        properties.pop("status", None)
        schema["required"] = sorted({"apiVersion", "kind", "metadata", *schema.get("required", [])})
        json.dump(schema, sys.stdout, separators=(",", ":"), sort_keys=True)
        print()
        return
    sys.exit(f"no {kind} here")


main()
