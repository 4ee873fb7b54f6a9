// PUTs each file named behind the URL to URL/<number> and GETs it again; prints both statuses and whether the same came
// back.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
)

func ask(method, target string, body []byte) (int, []byte) {
	request, err := http.NewRequest(method, target, bytes.NewReader(body))
	if err != nil {
		panic(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		panic(err)
	}
	return answer.StatusCode, content
}

func main() {
	for number, name := range os.Args[2:] {
		value, err := os.ReadFile(name)
		if err != nil {
			panic(err)
		}
		target := fmt.Sprintf("%s/%d", os.Args[1], number+1)
		put, _ := ask("PUT", target, value)
		get, content := ask("GET", target, nil)
		fmt.Println(put, get, bytes.Equal(content, value))
	}
}
