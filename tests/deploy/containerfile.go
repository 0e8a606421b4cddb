package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

type stage struct {
	Name         string        `json:"name"`
	Base         string        `json:"base"`
	Instructions []instruction `json:"instructions"`
}

type instruction struct {
	Name  string               `json:"name"`
	Value instructions.Command `json:"value"`
}

// Prints the stages of a Containerfile in JSON, or why BuildKit refuses it or warns of it.
func containerfile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	tree, err := parser.Parse(file)
	if err != nil {
		return err
	}
	for _, warning := range tree.Warnings {
		return fmt.Errorf("%s", warning.Short)
	}
	var warned error
	lint := linter.New(&linter.Config{
		Warn: func(rule, _, _, message string, lines []parser.Range) {
			warned = fmt.Errorf("%s: %s: %v", rule, message, lines)
		},
	})
	parsed, _, err := instructions.Parse(tree.AST, lint)
	if err != nil {
		return err
	}
	if warned != nil {
		return warned
	}
	stages := []stage{}
	for _, each := range parsed {
		found := stage{Name: each.Name, Base: each.BaseName}
		for _, command := range each.Commands {
			found.Instructions = append(found.Instructions, instruction{command.Name(), command})
		}
		stages = append(stages, found)
	}
	return json.NewEncoder(os.Stdout).Encode(stages)
}
